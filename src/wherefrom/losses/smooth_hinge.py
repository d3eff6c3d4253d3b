"""The hinge of a linear support vector machine, and its smooth version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number
from wherefrom.losses._elementwise import ElementwiseLoss, logistic_curvature, softplus
from wherefrom.losses._margin import ONE_OUTPUT_FIX, require_signs

LINEAR_BEYOND = 1000.0  # e^-1000 is zero in float64: the loss is exactly the hinge further out


@final
@dataclass(frozen=True)
class SmoothHinge(ElementwiseLoss):
    """`ℓ = t log(1 + exp((1 − s)/t))` with the margin `s = y f`, `y ∈ {−1, +1}`, one output per example.

    Tends to the hinge `max(0, 1 − s)` as `t → 0`, within `t log 2`, and is stable for every `t`. Hessian
    `σ((1 − s)/t) σ((s − 1)/t) / t`. `t = 0` is the hinge itself: its second derivative is zero wherever it
    exists and is returned as zero, its gradient at the kink `s = 1` as zero. Influence is therefore computed
    with `t > 0` at the parameters that the hinge gave (Koh & Liang 2017, §4.3).

    Args:
        t: temperature, in units of the margin; zero or positive. Below the smallest normal number of the
            outputs' dtype it counts as that number.

    Raises:
        InputError: `t` out of range; by any method, more than one output per example or targets whose shape
            does not fit.
    """

    t: float | int

    name = "smooth_hinge"
    reduction_over_outputs = None
    _several_outputs_fix = ONE_OUTPUT_FIX

    def __post_init__(self) -> None:
        number("t", self.t, least=0, expected="zero (the hinge) or a positive number such as 0.001")

    def settings(self) -> dict[str, Any]:
        return {"loss": self.name, "t": self.t}

    def _element_losses(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        shortfall = 1.0 - y * f
        if self.t == 0.0:
            return torch.relu(shortfall)
        t = self._representable(f)
        near = shortfall.abs() < LINEAR_BEYOND * t
        smooth = t * softplus(torch.where(near, shortfall, 0.0) / t)
        return torch.where(near, smooth, torch.relu(shortfall))

    def _element_slopes(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        shortfall = 1.0 - y * f
        if self.t == 0.0:
            return torch.where(shortfall > 0, -y, 0.0)
        t = self._representable(f)
        near = shortfall.abs() < LINEAR_BEYOND * t
        smooth = torch.sigmoid(torch.where(near, shortfall, 0.0) / t)
        return -y * torch.where(near, smooth, (shortfall > 0).to(f.dtype))

    def _element_curvature(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]:
        if self.t == 0.0:
            return torch.zeros_like(f)
        shortfall = 1.0 - y * f
        t = self._representable(f)
        near = shortfall.abs() < LINEAR_BEYOND * t
        curvature = logistic_curvature(torch.where(near, shortfall, 0.0) / t) / t
        return torch.where(near, curvature, 0.0)

    def _representable(self, f: Tensor) -> float | int:
        """`t`, or the smallest normal number of the outputs' dtype, so that it never divides as zero."""
        return max(self.t, torch.finfo(f.dtype).tiny)

    def _validate_labels(self, outputs: Tensor, targets: Tensor) -> None:
        require_signs(targets, self.name)
