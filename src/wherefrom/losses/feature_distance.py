"""The distance between output and target: squared error without the square, so that outliers pull less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number
from wherefrom.losses._signs import random_signs
from wherefrom.losses._vectors import VectorLoss


@final
@dataclass(frozen=True)
class FeatureDistance(VectorLoss):
    """`ℓ = √(‖f − y‖² + ε²) − ε`: the Euclidean distance for `ε = 0`. (`½‖f − y‖²` is `SquaredError()`.)

    With `δ = f − y` and `ρ = √(‖δ‖² + ε²)`: `∇_f ℓ = δ/ρ`, and `∇²_f ℓ = (I − δδᵀ/ρ²)/ρ`, which is convex,
    vanishes along `δ` for `ε = 0`, and is positive definite for `ε > 0`. The square root of it is
    `(I − δδᵀ/ρ(ρ + ε))/√ρ`.

    Args:
        smoothing: `ε ≥ 0`, in the units of the outputs: within it the loss is about `‖δ‖²/2ε`.

    Raises:
        InputError: `smoothing` is no finite number ≥ 0; by any method, outputs and targets whose shapes do
            not fit together; by `validate`, without smoothing, an output that equals its target.
    """

    smoothing: float | int = 0.0

    name = "feature_distance"
    convex = True
    roots_by_parts = True
    range = (0.0, math.inf)

    def __post_init__(self) -> None:
        words = "a finite number ≥ 0, in the units of the outputs"
        number("smoothing", self.smoothing, least=0, expected=words)

    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        # δ²/(ρ + ε) is ρ − ε without its cancellation.
        delta, rho = self._difference(outputs, targets)
        return (delta.square().sum(-1, keepdim=True) / (rho + self.smoothing))[:, 0]

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i` by one inner product, `O(c)` a vector."""
        delta, rho = self._difference(outputs, targets)
        unit = delta / rho
        v = vectors.reshape(*vectors.shape[: vectors.ndim - outputs.ndim], *delta.shape)
        return ((v - unit * (unit * v).sum(-1, keepdim=True)) / rho).reshape(vectors.shape)

    def hessian_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        return self.hessian_sqrt_part(outputs, targets, slice(None), slice(None))

    def hessian_sqrt_part(
        self, outputs: Tensor, targets: Any, positions: slice, columns: slice
    ) -> Float[Tensor, "b s c r"]:
        delta, rho = self._difference(outputs, targets)
        scaled = delta / (rho * (rho + self.smoothing)).sqrt()
        c = delta.shape[1]
        chosen = torch.arange(c, device=delta.device)
        units = (chosen[:, None] == chosen[columns]).to(delta.dtype)
        root = (units - scaled.unsqueeze(-1) * scaled[:, None, columns]) / rho.sqrt().unsqueeze(-1)
        return root.unsqueeze(1)[:, positions]

    def sample_roots(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_roots`: the symmetric root times random signs, which the one number of an example
        seeds."""
        delta, rho = self._difference(outputs, targets)
        scaled = delta / (rho * (rho + self.smoothing)).sqrt()
        signs = random_signs(uniforms[:, 0], delta.shape[1]).to(delta)
        mixed = (signs - scaled * (scaled * signs).sum(-1, keepdim=True)) / rho.sqrt()
        return mixed.unsqueeze(1)

    def settings(self) -> dict[str, Any]:
        return {"loss": self.name, "smoothing": float(self.smoothing)}

    def _difference(self, outputs: Tensor, targets: Any) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b 1"]]:
        """`δ` and `ρ`."""
        f, y = self._pair(outputs, targets)
        delta = f - y
        return delta, (delta.square().sum(-1, keepdim=True) + self.smoothing**2).sqrt()

    def _validate_rows(self, f: Float[Tensor, "b c"], y: Float[Tensor, "b c"]) -> None:
        if self.smoothing == 0.0:
            self._refuse_rows(
                (f == y).all(-1),
                "the output equals the target",
                "Pass FeatureDistance(smoothing=...), or use 'squared_error'.",
            )
