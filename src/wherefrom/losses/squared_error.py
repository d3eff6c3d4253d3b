"""Squared error: the negative logarithm of a Gaussian likelihood with a fixed variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number
from wherefrom.losses._elementwise import ElementwiseLoss, require_reduction


@final
@dataclass(frozen=True)
class SquaredError(ElementwiseLoss):
    """`ℓ = scale · ‖f − y‖²`, or `scale` times the mean over an example's outputs.

    The default is `½‖f − y‖²`, whose Hessian in the outputs is the identity. `torch.nn.MSELoss()` is
    `SquaredError(scale=1.0, reduction_over_outputs="mean")`. For every scale it is a Gaussian likelihood, of
    variance `1/(2 scale)` per output, whose Fisher information equals the Hessian `2 scale`.

    Args:
        scale: positive factor.
        reduction_over_outputs: `"sum"`, `"mean"`, or `None` to refuse more than one output per example.

    Raises:
        InputError: an option out of range; by any method, outputs and targets whose shapes do not fit
            together.
    """

    scale: float | int = 0.5
    reduction_over_outputs: str | None = "sum"

    name = "squared_error"
    _several_outputs_fix = "Pass SquaredError(reduction_over_outputs='sum' or 'mean')."

    def __post_init__(self) -> None:
        require_reduction(self.reduction_over_outputs)
        number("scale", self.scale, above=0)

    def fisher_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """See `Loss.fisher_sqrt_blocks`: the square root of the Hessian."""
        return self.hessian_sqrt_blocks(outputs, targets)

    def sample_gradients(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_gradients`: a standard normal draw, by its quantiles, times the root of the
        Hessian."""
        f, _ = self._pair(outputs, targets)
        noise = torch.special.ndtri(uniforms.to(f.device)).to(f.dtype).reshape(f.shape)
        return self.to_blocks((2.0 * self.scale * self._scale(f)) ** 0.5 * noise, outputs, targets)

    def settings(self) -> dict[str, Any]:
        return {
            "loss": self.name,
            "scale": self.scale,
            "reduction_over_outputs": self.reduction_over_outputs,
        }

    def _element_losses(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        return self.scale * (f - y).square()

    def _element_slopes(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        return 2.0 * self.scale * (f - y)

    def _element_curvature(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]:
        return torch.full_like(f, 2.0 * self.scale)

    def _validate_labels(self, outputs: Tensor, targets: Tensor) -> None:
        """Every finite number is a target."""
