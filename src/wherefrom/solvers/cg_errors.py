"""The error that conjugate gradients leave, estimated from what they have seen of it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.solvers.cg_iteration import BlockIteration

# A residual that fell by more than this since the earlier iterate gives no rate; the error is then solved
# for, this loosely, as it is where there is no earlier stretch to compare with.
_SUDDEN = 1e-3
_LOOSE = 0.1
_LOOSE_ITERATIONS = 30
# Changes that hardly fall say no more than that the error is this many times the last one.
_SLOWEST = 0.9


def error_left(
    iteration: BlockIteration,
    change: Float[Tensor, "p k"],
    residual: Float[Tensor, "p k"],
    rate: Float[Tensor, " k"],
    score_rate: Float[Tensor, " k"],
    energy_rate: Float[Tensor, " k"],
    converged: Bool[Tensor, " k"],
    missing: Float[Tensor, "p k"] | None,
) -> Float[Tensor, "p k"]:
    """The error left in every column. Where the iteration was over before a column was done: `missing`, what
    the iterations after the last would have added, or, where rounding stopped it, a loose solution of
    `C_λ e = r`.

    Of columns that converged it is estimated from the `change` of the last stretch, over which the residual
    fell by `rate`, or the scores' changes by `score_rate` where these stopped the column (NaN elsewhere).

    If errors fall like residuals, the change is `1/rate − 1` times what is left. Where the curvature is
    ill-conditioned they fall more slowly: so much as `energy_rate` says would overstate it as often, and the
    geometric mean is taken. A fall of many orders in one step (the Krylov space ran out), or a run that is
    all one stretch, says nothing of that kind: `C_λ e = r` is then solved loosely.
    """
    by_scores = ~score_rate.isnan()
    steady = torch.where(by_scores, score_rate, rate).clamp(max=_SLOWEST)
    factor = steady / (1 - steady)
    slow = energy_rate.nan_to_num(0.0).clamp(max=_SLOWEST)
    slower = torch.maximum(factor, (factor * (slow / (1 - slow)).sqrt()).sqrt())
    directions = change * torch.where(by_scores, factor, slower)
    unknown = (rate < _SUDDEN) | energy_rate.isnan()
    left = residual.norm(dim=0)
    unsolved = unknown & converged & ~by_scores & (left > 0)
    if missing is not None:
        directions = torch.where(converged, directions, missing)
        # A column that seemed done until its true residual was known was not followed any further.
        missing_known = missing.norm(dim=0) > 0
        unsolved |= ~converged & ~missing_known
    else:
        unsolved |= ~converged
    if bool(unsolved.any()):
        # At unit size: squares of a residual that is nearly nothing would underflow.
        size = left[unsolved].clamp(min=torch.finfo(left.dtype).tiny)
        loosely = iteration.run(
            residual[:, unsolved] / size, torch.full_like(size, _LOOSE), _LOOSE_ITERATIONS
        )
        directions[:, unsolved] = loosely.x * size
    return directions
