"""From a fitted influence function to scores, self-influence and parameter changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.gradients import ExampleGradients
from wherefrom.influence.damping_effect import damping_share, departure, undamped_distance
from wherefrom.influence.fit import Fit
from wherefrom.influence.identity import identity_of
from wherefrom.influence.layerwise import layerwise_plan, layerwise_scores, layerwise_self_scores
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.room import NUMBERS_PER_SCORE, require_room_for_scores
from wherefrom.influence.scores import Scores, check_indices
from wherefrom.influence.self_scores import SelfScores
from wherefrom.influence.solved_block import SolvedBlock
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers import PreparedBlocks, Solution


def compute_scores(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    refine: int = 0,
) -> Scores:
    """Scores of every training example for every query: `∇mᵀ C_λ⁻¹ g_i`.

    Args:
        fitted: the fitted influence function.
        queries: examples, in any form the training data may have.
        measurement: what is measured on a query.
        refine: for the `refine` most helpful and most harmful training examples of each query, solve for the
            training side too
            and correct the score: with residuals `r` (query) and `s` (training), what is left is `rᵀC_λ⁻¹s`,
                a product of two
            small numbers.

    Raises:
        InputError, NonFiniteError: bad queries.
        OutOfMemoryError: scores and errors exceed the memory budget that was stated, or what is free.
    """
    refine = whole("refine", refine, 0)
    measured = resolve_measurement(measurement, fitted.objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    q, n = len(gradients), fitted.objective.n
    if isinstance(fitted.prepared, PreparedBlocks) and refine:
        raise InputError(
            f"refine={refine}: solver={fitted.solver.name!r} approximates the curvature itself, so single "
            "scores cannot be corrected beside others that are not. Use refine=0, or "
            "solver=CG() for the full curvature."
        )
    require_room_for_scores(fitted.objective, q)
    if isinstance(fitted.prepared, PreparedBlocks):
        return _layerwise(fitted, gradients, measured)
    values, estimate, bound = (
        torch.empty(q, n, dtype=fitted.objective.dtype) for _ in range(NUMBERS_PER_SCORE)
    )
    solutions: list[Solution] = []
    share = 0.0
    with progress_bar("scoring", q, enabled=fitted.options.progress) as bar:
        for block in fitted.solve_queries(gradients):
            _score_block(fitted, block, values, estimate, bound)
            if refine:
                _refine_block(fitted, block, min(refine, n), values, estimate, bound)
            own = damping_share(block.gradients, block.solution.x, fitted.damping)
            if fitted.damping.departs:
                missing = departure(values[block.where], undamped_distance(own))
                estimate[block.where] = torch.hypot(estimate[block.where], missing)
            share = max(share, own)
            solutions.append(_without_vectors(block.solution))
            bar.advance(block.where.stop - block.where.start)
    return Scores(
        values=values,
        error=estimate,
        bound=bound,
        bound_proven=fitted.prepared.lower_bound_proven,
        converged=torch.cat([solution.converged for solution in solutions]),
        reason=" ".join(sorted({solution.reason for solution in solutions if solution.reason})),
        relative_residual=torch.cat([solution.relative_residual for solution in solutions]).cpu(),
        measurement=measured.name,
        higher_is_better=measured.higher_is_better,
        settings={
            **fitted.settings(),
            "measurement": measured.name,
            "refine": refine,
            "damping_share": share,
        },
        identity=identity_of(fitted.identity, gradients.examples, measured),
    )


def explain_scores(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
) -> str:
    """The plan of `compute_scores` for these queries, as text.

    Raises:
        UnsupportedError: the solver in use does not treat layers apart.
    """
    measured = resolve_measurement(measurement, fitted.objective.loss)
    return layerwise_plan(fitted, fitted.measure_gradients(queries, measured)).explain()


def _layerwise(fitted: Fit, gradients: ExampleGradients, measured: Measurement) -> Scores:
    """Scores of a solver that treats layers apart; nothing is proven of their distance from the full
    curvature's."""
    made = layerwise_scores(fitted, gradients)
    q = len(gradients)
    return Scores(
        values=made.values,
        error=made.error,
        # One number seen from all places: there is nothing to hold.
        bound=made.values.new_full((1, 1), math.inf).expand_as(made.values),
        bound_proven=False,
        converged=torch.ones(q, dtype=torch.bool),
        reason="",
        relative_residual=torch.full((q,), made.relative_residual, dtype=made.values.dtype),
        measurement=measured.name,
        higher_is_better=measured.higher_is_better,
        settings={
            **fitted.settings(),
            "measurement": measured.name,
            "refine": 0,
            "distance": made.distance,
            "damping_share": made.damping_share,
            "plan": made.plan.as_dict(),
        },
        identity=identity_of(fitted.identity, gradients.examples, measured),
    )


def compute_self_scores(
    fitted: Fit, indices: Sequence[int] | Tensor | np.ndarray | None = None
) -> SelfScores:
    """Self-influence `g_iᵀ C_λ⁻¹ g_i` of training examples (all of them, or `indices`)."""
    index = (
        torch.arange(fitted.objective.n) if indices is None else check_indices(indices, fitted.objective.n)
    )
    if isinstance(fitted.prepared, PreparedBlocks):
        layerwise, error = layerwise_self_scores(fitted, index)
        return SelfScores(
            index=index,
            values=layerwise,
            error=error,
            bound=torch.full_like(layerwise, math.inf),
            converged=torch.ones(len(index), dtype=torch.bool),
            reason="",
            settings=fitted.settings(),
            identity={"fit": fitted.identity},
        )
    gradients = fitted.train_gradients
    values, estimate, bound, converged, reasons = [], [], [], [], set()
    size = min(fitted.block_size(), fitted.engine.rows_per_batch())
    with progress_bar("self-influence", len(index), enabled=fitted.options.progress) as bar:
        for part in index.split(size):
            with memory_errors("computing self-influence", "Lower memory=."):
                rows, sizes = gradients.rows_and_sizes(part)
                solution = fitted.solve(rows.T)
                solution = replace(solution, rhs_shaken=sizes.shaken, overlap=fitted.overlap(solution.x))
            own = (rows.T * solution.x).sum(0)
            values.append(own.cpu())
            errors = torch.einsum("kp,rpk->rk", rows, solution.error_directions)
            rounding = fitted.rounding_estimate(solution, sizes, own[:, None].expand(-1, len(own)))
            expected = torch.hypot(errors.norm(dim=0), rounding.diagonal()).cpu()
            if fitted.damping.departs:
                distance = undamped_distance(damping_share(rows.T, solution.x, fitted.damping))
                expected = torch.hypot(expected, departure(values[-1][None], distance)[0])
            estimate.append(expected)
            bound.append(fitted.score_bound(solution, sizes).diagonal().to(rows.dtype).cpu())
            converged.append(solution.converged)
            reasons.add(solution.reason)
            bar.advance(len(part))
    return SelfScores(
        index=index,
        values=torch.cat(values),
        error=torch.cat(estimate),
        bound=torch.cat(bound),
        converged=torch.cat(converged),
        reason=" ".join(sorted(reason for reason in reasons if reason)),
        settings=fitted.settings(),
        identity={"fit": fitted.identity},
    )


def parameter_influence(fitted: Fit, examples: Any) -> Float[Tensor, "k p"]:
    """`I_up,params(z) = dθ̂/dε = −C_λ⁻¹ g_z`: up-weighting `z` by `ε` moves `θ̂` by `ε` times this.

    Removing training example `i` moves the parameters by `−1/n` times its row (Koh & Liang 2017, §2.1).

    Args:
        fitted: the fitted influence function.
        examples: training indices (an integer, or a list or 1-D tensor of integers), or examples in any form
            the training data may have.
    """
    if _are_indices(examples):
        index = check_indices([examples] if isinstance(examples, Integral) else examples, fitted.objective.n)
        gradients = fitted.train_gradients
    else:
        gradients = fitted.measure_gradients(examples, resolve_measurement("loss", fitted.objective.loss))
        index = torch.arange(len(gradients))
    return torch.cat([-fitted.solve(gradients.rows(part).T).x.T for part in index.split(fitted.block_size())])


def _are_indices(examples: Any) -> bool:
    if isinstance(examples, Tensor):
        return examples.ndim == 1 and not examples.is_floating_point()
    if isinstance(examples, np.ndarray):
        return examples.ndim == 1 and examples.dtype.kind in "biu"
    return isinstance(examples, Integral) or (
        isinstance(examples, (list, range)) and all(isinstance(i, Integral) for i in examples)
    )


def _score_block(fitted: Fit, block: SolvedBlock, values: Tensor, estimate: Tensor, bound: Tensor) -> None:
    """One pass over the training set: products with the solutions and with their error directions
    together."""
    solution = block.solution
    r, p, k = solution.error_directions.shape
    directions = torch.cat([solution.x, solution.error_directions.permute(1, 0, 2).reshape(p, r * k)], dim=1)
    for where, inner, sizes in fitted.train_gradients.products(directions):
        made = inner[:, :k].T
        values[block.where, where] = made.cpu()
        errors = inner[:, k:].reshape(inner.shape[0], r, k).norm(dim=1).T
        rounding = fitted.rounding_estimate(solution, sizes, made)
        estimate[block.where, where] = torch.hypot(errors, rounding).cpu()
        bound[block.where, where] = fitted.score_bound(solution, sizes).to(values.dtype).cpu()


def _refine_block(
    fitted: Fit, block: SolvedBlock, k: int, values: Tensor, estimate: Tensor, bound: Tensor
) -> None:
    """Correct the extreme scores of each query by the training side: `score ← xᵀg + rᵀy` with
    `y ≈ C_λ⁻¹ g`."""
    own = values[block.where]
    order = own.argsort(dim=1, stable=True)
    extreme = torch.cat([order[:, :k], order[:, -k:]], dim=1)
    chosen = extreme.unique()
    residual = block.gradients - fitted.prepared.operator.matmat(block.solution.x)
    for part in chosen.split(fitted.block_size()):
        rows, sizes = fitted.train_gradients.rows_and_sizes(part)
        other = fitted.solve(rows.T)
        corrected = block.solution.x.T @ rows.T + residual.T @ other.x
        left = torch.einsum("pq,rpb->rqb", residual, other.error_directions).norm(dim=0)
        left = torch.hypot(left, fitted.rounding_estimate(block.solution, sizes, corrected)).cpu()
        corrected = corrected.cpu()
        rounding = fitted.score_bound(_exactly(block.solution), sizes)
        both = (
            residual.norm(dim=0).double()[:, None]
            * other.residual_norm.double()[None]
            / fitted.prepared.lower_bound
        )
        limit = (both + rounding).to(values.dtype).cpu()
        column = {int(i): position for position, i in enumerate(part)}
        for row in range(extreme.shape[0]):
            for i in extreme[row].unique().tolist():
                if i in column:
                    at = (block.where.start + row, i)
                    # Otherwise the training side was solved worse than the query's.
                    if limit[row, column[i]] < bound[at]:
                        values[at] = corrected[row, column[i]]
                        estimate[at] = left[row, column[i]]
                        bound[at] = limit[row, column[i]]


def _exactly(solution: Solution) -> Solution:
    """The same solution as if its residual were zero: what is left of the bound is rounding."""
    return replace(solution, reason="", residual_norm=torch.zeros_like(solution.residual_norm))


def _without_vectors(solution: Solution) -> Solution:
    """Drop the `p`-vectors once the scores are computed."""
    return replace(solution, x=solution.x[:0], error_directions=solution.error_directions[:, :0])
