"""Gradients of whole groups, and `C_λ⁻¹` of them with an error: what slices and clusters are made of."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients import ExampleGradients
from wherefrom.influence import Fit
from wherefrom.influence.damping_effect import damping_share, undamped_distance
from wherefrom.progress import progress_bar
from wherefrom.solvers import PreparedBlocks, Solution
from wherefrom.solvers.cg_iteration import BlockIteration
from wherefrom.solvers.repair import measured
from wherefrom.studies.slices.groups import Groups

# Steps of preconditioned conjugate gradients towards what a block inverse misses.
_STEPS = 2
# Beyond this many times their size, changes without damping are not known at all.
_MOST_DAMPED = 10.0


def measured_values(gradients: ExampleGradients) -> Float[Tensor, " q"]:
    """The measurement of each example, in float64."""
    engine = gradients.engine
    values = []
    for where, batch in gradients.examples.batches(max(engine.batch_size, 256)):
        with torch.no_grad():
            outputs = engine.objective.outputs(engine.objective.parameters.values, batch)
            values.append(gradients.measure(outputs, engine.objective.targets(batch)).double().cpu())
        assert len(values[-1]) == where.stop - where.start
    return torch.cat(values)


def solve_with_error(fitted: Fit, rhs: Float[Tensor, "p k"]) -> Solution:
    """`C_λ⁻¹ v` with error directions, also where layers are inverted apart.

    What a block inverse `M⁻¹` misses, `C_λ⁻¹ (v − C_λ M⁻¹ v)`, is approximated by two steps of conjugate
    gradients preconditioned by `M` and handed on as the error direction. With `probes=0` nothing is measured.
    """
    solution = fitted.solve(rhs)
    prepared = fitted.prepared
    if not isinstance(prepared, PreparedBlocks) or not prepared.settings.probes:
        return solution
    residual = rhs - prepared.operator.matmat(solution.x)
    iteration = BlockIteration(
        prepared.operator, prepared.as_preconditioner(), partial(measured, prepared.operator, seed=0)
    )
    missing = iteration.run(residual, torch.zeros_like(residual[0]), _STEPS).x
    return replace(solution, residual_norm=residual.norm(dim=0), error_directions=missing[None])


def _error_known(fitted: Fit) -> bool:
    """Whether `solve_with_error` says anything of the error."""
    prepared = fitted.prepared
    return not isinstance(prepared, PreparedBlocks) or bool(prepared.settings.probes)


def score_examples(fitted: Fit, solution: Solution, scores: Tensor, errors: Tensor) -> Tensor:
    """Scores of every training example with each column of a solution, in one pass.

    Args:
        solution: `C_λ⁻¹` of `k` measurements.
        scores, errors: `(n, k)`, written: the scores and the errors expected in them.

    Returns:
        `‖g_i‖²`, with what rounding of the outputs adds to it, `(n,)`.
    """
    r, p, k = solution.error_directions.shape
    directions = torch.cat([solution.x, solution.error_directions.permute(1, 0, 2).reshape(p, r * k)], dim=1)
    squares = torch.empty(len(scores), dtype=torch.float64)
    for where, inner, sizes in fitted.train_gradients.products(directions):
        scores[where] = inner[:, :k].cpu()
        missed = inner[:, k:].reshape(len(inner), r, k).norm(dim=1)
        rounding = fitted.rounding_estimate(solution, sizes, inner[:, :k].T).T
        errors[where] = torch.hypot(missed, rounding).cpu()
        squares[where] = (sizes.norm + sizes.shaken).square().cpu()
    if not _error_known(fitted):
        errors.fill_(math.inf)
    return squares


def score_groups(
    fitted: Fit,
    solution: Solution,
    train: Groups,
    squares: Tensor,
    change: Tensor,
    estimate: Tensor,
    bound: Tensor,
) -> None:
    """Summed scores of whole training groups, from the sums of their gradients: the errors of single scores
    partly cancel, and only the sum knows how far.

    Args:
        solution: `C_λ⁻¹` of `k` measurements.
        train: the groups, `t` of them.
        squares: `‖g_i‖²`, as `score_examples` returns them.
        change, estimate, bound: `(t, k)`, written: the sums, the errors expected, what they cannot exceed.
    """
    with progress_bar("training groups", len(train), enabled=fitted.options.progress) as bar:
        for number, members in enumerate(train.members):
            total = fitted.train_gradients.sum(members).to(fitted.objective.dtype)
            change[number] = (total.double() @ solution.x.double()).cpu()
            missed = torch.einsum("p,rpk->rk", total, solution.error_directions).norm(dim=0)
            size = total.norm().reshape(1)
            # Each gradient of the sum is rounded by itself.
            rounded = torch.hypot(size, squares[members].sum().sqrt().to(size)).reshape(1)
            error = torch.hypot(missed, fitted.rounding_estimate(solution, rounded)[:, 0])
            estimate[number] = error.cpu() if _error_known(fitted) else math.inf
            bound[number] = fitted.score_bound(solution, rounded)[:, 0].cpu()
            bar.advance()


def change_of_each(fitted: Fit, gradients: ExampleGradients, groups: Groups) -> Float[Tensor, "q t"]:
    """Predicted change of each query's measurement when a group is removed, `(q, groups)`: one solve per
    group, from the training side, and one pass over the queries."""
    made = torch.empty(len(gradients), len(groups), dtype=torch.float64)
    size = fitted.block_size()
    with progress_bar("changes of single queries", len(groups), enabled=fitted.options.progress) as bar:
        for start in range(0, len(groups), size):
            block = slice(start, min(start + size, len(groups)))
            sums = [
                fitted.train_gradients.sum(members).to(fitted.objective.dtype)
                for members in groups.members[block]
            ]
            solution = fitted.solve(torch.stack(sums, 1))
            for where, inner, _ in gradients.products(solution.x):
                made[where, block] = inner.double().cpu() / fitted.objective.n
            bar.advance(len(sums))
    return made


def damping_error(fitted: Fit, rhs: Float[Tensor, "p k"], solution: Solution) -> float:
    """Relative error that the damping makes in changes predicted with these solutions: without it they would
    differ by about so much of their size."""
    return min(undamped_distance(damping_share(rhs, solution.x, fitted.damping)), _MOST_DAMPED)


def standard_error(changes: Float[Tensor, " q"]) -> float:
    """Of their mean, as an estimate for all queries of the kind; infinite for a single one."""
    return float(changes.std()) / len(changes) ** 0.5 if len(changes) > 1 else math.inf
