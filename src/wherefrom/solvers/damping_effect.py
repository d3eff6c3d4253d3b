"""What damping does to scores."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Of the effect on a score near zero, this share of the effect on a typical one is expected at least.
_LEAST = 0.02
# Above this share nothing is known of the scores without damping.
_LOST = 0.9
_SMALL = 0.02
# Queries that are held against one another: the share hardly depends on which, their products cost k² p.
_COLUMNS = 64


def damping_share(
    gradients: Float[Tensor, "p k"], x: Float[Tensor, "p k"], damping: float | Float[Tensor, " p"]
) -> float:
    """The share `r` of scores that damping decides, between 0 and 1: `r = −d ln(score) / d ln λ`.

    From `dC_λ⁻¹/dλ = −C_λ⁻²`, the derivative of `vᵀC_λ⁻¹w` in `ln λ` is `−xᵀ(λy)` with the solutions
    `x = C_λ⁻¹v` and `y = C_λ⁻¹w`, here those of the first queries for one another: nothing is solved for it.

    Args:
        gradients: of the queries, as columns.
        x: `C_λ⁻¹` of them.
        damping: `λ`, or one for each parameter.
    """
    if isinstance(damping, (int, float)) and damping == 0:
        return 0.0
    gradients, x = gradients[:, :_COLUMNS], x[:, :_COLUMNS]
    weights = damping.to(x)[:, None] if isinstance(damping, Tensor) else damping
    with_damping = float((gradients.T @ x).double().norm())
    moved = float((x.T @ (weights * x)).double().norm())
    return min(moved / with_damping, 1.0) if with_damping > 0 else 0.0


def undamped_distance(share: float) -> float:
    """Relative difference of scores from those without damping, where that moves them by the share `r` to
    first order: `C⁻¹ = C_λ⁻¹ (I − λC_λ⁻¹)⁻¹`, so `r / (1 − r)`, exact in one dimension. Infinite where `r` is
    too near 1 to tell."""
    return share / (1 - share) if share <= _LOST else math.inf


def departure(values: Float[Tensor, "k b"], distance: float) -> Float[Tensor, "k b"]:
    """The error expected of scores that lie at this relative distance from what they should be."""
    if not math.isfinite(distance):
        return torch.full_like(values, math.inf)
    typical = values.double().square().mean(1, keepdim=True).sqrt().to(values.dtype)
    return distance * torch.maximum(values.abs(), _LEAST * typical)


def damping_words(value: float, share: float | None) -> str:
    """What is to be said of scores damped by `λ = value` that are moved by `share`."""
    if value == 0 or share is None:
        return ""
    if share < _SMALL:
        return f"damping {value:.2g} changes them by less than {_SMALL:.0%}"
    if share < 0.5:
        return f"without the damping {value:.2g} they would differ by about {undamped_distance(share):.0%}"
    return f"decided by the damping {value:.2g}: without it they would be others"
