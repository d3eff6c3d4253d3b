"""`solver="auto"`: exact where it is cheap, EK-FAC for larger networks, conjugate gradients elsewhere."""

from __future__ import annotations

from whence.curvature.gauss_newton import GaussNewtonOperator
from whence.errors import InputError
from whence.linalg import FactoredOperator, LinearOperator, split_diagonal
from whence.solvers.arnoldi import Arnoldi
from whence.solvers.base import Solver
from whence.solvers.block_diagonal import BlockDiagonal
from whence.solvers.cg import CG
from whence.solvers.datainf import DataInf
from whence.solvers.dual import DualCost, dual_cost, dual_factor
from whence.solvers.exact import PRIMAL_LIMIT, Exact
from whence.solvers.kronecker import EKFAC, KFAC, Diagonal, Identity
from whence.solvers.lissa import LiSSA
from whence.solvers.nystrom import Nystrom

# What the dual space may take, by `DualCost.seconds`.
_DUAL_SECONDS = 120.0
# Dense matrices and rows may take this share of the memory budget.
_MEMORY_SHARE = 0.8
_NAMED: dict[str, type[Solver]] = {
    "exact": Exact,
    "cg": CG,
    "lissa": LiSSA,
    "ekfac": EKFAC,
    "kfac": KFAC,
    "diagonal": Diagonal,
    "identity": Identity,
    "block_diagonal": BlockDiagonal,
    "arnoldi": Arnoldi,
    "nystrom": Nystrom,
    "datainf": DataInf,
}


def choose_solver(
    solver: Solver | str, operator: LinearOperator, *, memory: int, damped: bool
) -> tuple[Solver, str]:
    """A solver, and why it was chosen.

    Args:
        solver: a solver, the name of one, or `"auto"`.
        operator: curvature without damping.
        memory: budget in bytes.
        damped: whether damping will be added.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(solver, Solver):
        return solver, "as given"
    if solver in _NAMED:
        return _NAMED[solver](), "as asked, with its defaults"
    if solver != "auto":
        raise InputError(f"solver={solver!r}: expected 'auto', {', '.join(map(repr, _NAMED))}, or a Solver")
    p = operator.size
    if p <= PRIMAL_LIMIT and 3 * 8 * p * p <= _MEMORY_SHARE * memory:
        return Exact(space="auto"), f"p = {p:,} is small enough to factorise"
    rest, diagonal = split_diagonal(operator)
    invertible = damped or bool((diagonal > 0).all())
    factor = dual_factor(operator)
    if factor is not None and invertible:
        cost = _dual_cost(factor, memory)
        if cost.seconds <= _DUAL_SECONDS and cost.bytes <= _MEMORY_SHARE * memory:
            return Exact(space="dual"), f"{_words(cost)} are few enough to factorise in the dual space"
        too_large = f"p = {p:,} and {_words(cost)} in the dual space are too many to factorise"
    else:
        too_large = f"p = {p:,} is too large to factorise"
    semidefinite = operator.lower_bound >= 0
    if len(rest) == 1 and isinstance(rest[0], GaussNewtonOperator) and semidefinite and invertible:
        return EKFAC(), f"{too_large}: layer by layer, in a Kronecker eigenbasis"
    return CG(), f"{too_large}, and the curvature is none that EK-FAC approximates"


def _dual_cost(factor: FactoredOperator, memory: int) -> DualCost:
    """The cost in the dual space; without the Gram matrix where the factorisation alone is too much."""
    cost = dual_cost(factor, with_gram=False)
    if cost.seconds > _DUAL_SECONDS or cost.bytes > _MEMORY_SHARE * memory:
        return cost
    return dual_cost(factor)


def _words(cost: DualCost) -> str:
    size = f"{cost.bytes / 1e9:.2g} GB, about {cost.seconds:.2g} s on two cores"
    return f"examples × output roots = {cost.size:,} ({size})"
