"""The automatic choice of a solver: by what each would take, counted before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.kronecker.gather import EXACT_ROOTS, drawn_metric
from wherefrom.curvature.kronecker.options import KroneckerOptions
from wherefrom.linalg import LinearOperator, split_diagonal
from wherefrom.solvers.base import Solver
from wherefrom.solvers.cg import CG
from wherefrom.solvers.cost import Cost, dual_cost, in_words, iteration_cost, kronecker_cost, primal_cost
from wherefrom.solvers.dual import dual_factor
from wherefrom.solvers.exact import PRIMAL_LIMIT, Exact
from wherefrom.solvers.kronecker import EKFAC

# An exact answer may take this long, in seconds of one core as `cost` predicts them; and this long where the
# outputs are affine in the parameters, so that nothing else stands between the answer and the truth.
EXACT_SECONDS = 20.0
EXACT_SECONDS_AFFINE = 60.0
# Iterations of conjugate gradients for a first few queries: a hundred for each of four.
_ITERATIONS = 400
# Dense matrices and rows may take this share of the memory budget.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class _Way:
    """An exact solver and what it takes; `cost` is `None` where it does not exist."""

    solver: Exact
    cost: Cost
    size: str
    few: str


def choose_by_cost(operator: LinearOperator, *, memory: int, damped: bool) -> tuple[Solver, str]:
    """A solver, and why: the exact one that takes least, if that is no more than `EXACT_SECONDS` and the
    memory allows it, or less than EK-FAC; else EK-FAC where it exists, unless that takes longer than
    `EXACT_SECONDS` and than conjugate gradients (a wide layer's eigenvectors); else conjugate gradients.

    Args:
        operator: curvature without damping.
        memory: budget in bytes.
        damped: whether damping will be added.
    """
    rest, diagonal = split_diagonal(operator)
    invertible = damped or bool((diagonal > 0).all())
    primal = _primal(operator)
    dual = _dual(operator, memory, primal.cost) if invertible else None
    possible = [way for way in (primal, dual) if way is not None]
    fitting = [way for way in possible if way.cost.bytes <= _MEMORY_SHARE * memory]
    best = min(fitting, key=lambda way: way.cost.seconds, default=None)
    data = rest[0] if len(rest) == 1 and isinstance(rest[0], GaussNewtonOperator) else None
    layerwise = data is not None and operator.lower_bound >= 0 and invertible and _drawable(data)
    apart = kronecker_cost(data) if layerwise and data is not None else None
    affine = data is not None and data.engine.affine
    limit = EXACT_SECONDS_AFFINE if affine else EXACT_SECONDS
    if primal in fitting and primal.cost.seconds <= limit and operator.size <= PRIMAL_LIMIT:
        # Either space will do: the smaller one, and the primal one where nothing is on the diagonal.
        best = _Way(Exact(space="auto"), primal.cost, primal.size, primal.few)
    iteration = f"{in_words(iteration_cost(operator).seconds)} an iteration and query"
    others = f"Instead: {f'EK-FAC, an approximation, {apart}; ' if apart else ''}CG, {iteration}"
    if best is not None and (best.cost.seconds <= limit or (apart and best.cost.seconds <= apart.seconds)):
        why = f"{best.size} {best.few} ({best.cost})"
        if best.cost.seconds > limit:
            why += f", more than {limit:g} s but less than EK-FAC"
        return best.solver, f"{why}. {others}"
    if best is None:
        found = "; ".join(f"{way.size}: {way.cost}" for way in possible)
        too_large = f"too large to factorise within a memory budget of {memory / 1e9:.3g} GB ({found})"
    else:
        too_large = f"{best.size}: too large to factorise within {limit:g} s ({best.cost})"
    if apart is not None and limit < apart.seconds > _ITERATIONS * iteration_cost(operator).seconds:
        why = f"EK-FAC would take {apart}"
        return CG(), f"{too_large}, and {why}, more than conjugate gradients for a few queries ({iteration})"
    if apart is not None:
        return EKFAC(), f"{too_large}: layer by layer, in a Kronecker eigenbasis ({apart})"
    none = "the curvature is none that EK-FAC approximates"
    if data is not None and not _drawable(data):
        none = (
            f"the output curvature of loss {data.metric.loss.name!r} has {data.roots.each:,} roots an "
            "example, which EK-FAC would have to take one by one"
        )
    return CG(), f"{too_large}, and {none} (CG: {iteration})"


def _primal(operator: LinearOperator) -> _Way:
    p = operator.size
    return _Way(Exact(space="primal"), primal_cost(operator), f"p = {p:,}", "is small enough to factorise")


def _dual(operator: LinearOperator, memory: int, primal: Cost) -> _Way | None:
    """Without the cost of the Gram matrix, for which factored gradients may have to be proved right, where
    the factorisation alone is too much, or more than the primal one."""
    factor = dual_factor(operator)
    if factor is None:
        return None
    cost = dual_cost(operator, factor, with_gram=False)
    feasible = cost.seconds <= EXACT_SECONDS_AFFINE and cost.bytes <= _MEMORY_SHARE * memory
    if feasible and (cost.seconds < primal.seconds or primal.bytes > _MEMORY_SHARE * memory):
        cost = dual_cost(operator, factor)
    few = "are few enough to factorise in the dual space"
    return _Way(Exact(space="dual"), cost, f"examples × output roots = {cost.size:,}", few)


def _drawable(data: GaussNewtonOperator) -> bool:
    """Whether EK-FAC needs no more than a few gradients an example: of few roots, or by drawing."""
    if data.roots.each <= EXACT_ROOTS or data.metric.couples_positions:
        return True
    return drawn_metric(data, KroneckerOptions()) is not None
