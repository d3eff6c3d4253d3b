"""Gradients of whole groups, and `C_λ⁻¹` of them with an error: what slices and clusters are made of."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients import ExampleGradients
from wherefrom.influence import Fit
from wherefrom.progress import progress_bar
from wherefrom.solvers import Solution
from wherefrom.solvers.damping_effect import undamped_distance
from wherefrom.studies.slices.groups import Groups

# Beyond this many times their size, changes without damping are not known at all.
_MOST_DAMPED = 10.0


def score_examples(fitted: Fit, solution: Solution, scores: Tensor, errors: Tensor) -> Tensor:
    """Scores of every training example with each column of a solution, in one pass.

    Args:
        solution: `C_λ⁻¹` of `k` measurements.
        scores, errors: `(n, k)`, written: the scores and the errors expected in them.

    Returns:
        `‖g_i‖²`, with what rounding of the outputs adds to it, `(n,)`.
    """
    squares = torch.empty(len(scores), dtype=torch.float64)
    for where, made, expected, sizes in fitted.pairing.products(fitted.train_gradients, solution):
        scores[where], errors[where] = made.cpu(), expected.cpu()
        squares[where] = (sizes.norm + sizes.shaken).square().cpu()
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
            error = torch.hypot(missed, fitted.pairing.rounding_estimate(solution, rounded)[:, 0])
            estimate[number] = error.cpu()
            bound[number] = fitted.pairing.score_bound(solution, rounded)[:, 0].cpu()
            bar.advance()


def change_of_each(fitted: Fit, gradients: ExampleGradients, groups: Groups) -> Float[Tensor, "q t"]:
    """Predicted change of each query's measurement when a group is removed, `(q, groups)`: one solve per
    group, from the training side, and one pass over the queries."""
    made = torch.empty(len(gradients), len(groups), dtype=torch.float64)
    size = fitted.pairing.block_size()
    with progress_bar("changes of single queries", len(groups), enabled=fitted.options.progress) as bar:
        for start in range(0, len(groups), size):
            block = slice(start, min(start + size, len(groups)))
            sums = [
                fitted.train_gradients.sum(members).to(fitted.objective.dtype)
                for members in groups.members[block]
            ]
            for where, inner, _ in gradients.products(fitted.apply(torch.stack(sums, 1)).x):
                made[where, block] = inner.double().cpu() / fitted.objective.n
            bar.advance(len(sums))
    return made


def damping_error(fitted: Fit, rhs: Float[Tensor, "p k"], solution: Solution) -> float:
    """Relative error that the damping makes in changes predicted with these solutions: without it they would
    differ by about so much of their size."""
    return min(undamped_distance(fitted.pairing.damping_share(rhs, solution.x)), _MOST_DAMPED)


def standard_error(changes: Float[Tensor, " q"]) -> float:
    """Of their mean, as an estimate for all queries of the kind; infinite for a single one."""
    return float(changes.std()) / len(changes) ** 0.5 if len(changes) > 1 else math.inf
