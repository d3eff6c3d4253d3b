"""Logistic loss of labels −1 and +1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.losses._elementwise import ElementwiseLoss, logistic_curvature, softplus
from wherefrom.losses._margin import ONE_OUTPUT_FIX, require_signs


@final
@dataclass(frozen=True)
class Logistic(ElementwiseLoss):
    """`ℓ = log(1 + exp(−y f))` with `y ∈ {−1, +1}` and one output per example, `(b,)` or `(b, 1)`.

    Gradient `−σ(−y f) y`, Hessian `σ(f) σ(−f)` (Koh & Liang 2017, §2.3). The same loss as binary
    cross-entropy of the label `(y + 1)/2`.

    Raises:
        InputError: by any method, more than one output per example or targets whose shape does not fit.
    """

    name = "logistic"
    reduction_over_outputs = None
    _several_outputs_fix = ONE_OUTPUT_FIX

    def fisher_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """See `Loss.fisher_sqrt_blocks`: the square root of the Hessian, the same for either label."""
        return self.hessian_sqrt_blocks(outputs, targets)

    def sample_gradients(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_gradients`: `−σ(−ỹ f) ỹ` with `ỹ = +1` drawn with probability `σ(f)`."""
        f, _ = self._pair(outputs, targets)
        one = uniforms.to(f.device).reshape(f.shape) < torch.sigmoid(f)
        gradient = torch.where(one, -torch.sigmoid(-f), torch.sigmoid(f))
        return self.to_blocks(gradient, outputs, targets)

    def settings(self) -> dict[str, Any]:
        return {"loss": self.name}

    def _element_losses(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        return softplus(-y * f)

    def _element_slopes(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        return -y * torch.sigmoid(-y * f)

    def _element_curvature(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]:
        return logistic_curvature(f)

    def _validate_labels(self, outputs: Tensor, targets: Tensor) -> None:
        require_signs(targets, self.name)
