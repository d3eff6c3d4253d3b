"""Cosine loss: the angle between output and target, blind to the output's length, and not convex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.losses._vectors import VectorLoss


@final
@dataclass(frozen=True)
class Cosine(VectorLoss):
    """`ℓ = 1 − cos(f, y)`, between 0 and 2; `½‖f/‖f‖ − y/‖y‖‖²` is the same number.

    With `û = f/‖f‖`, `ŷ = y/‖y‖` and `κ = ûᵀŷ`: `∇_f ℓ = (κû − ŷ)/‖f‖` and
    `∇²_f ℓ = (ŷûᵀ + ûŷᵀ + κ(I − 3ûûᵀ))/‖f‖²`, whose eigenvalues are `(κ ± √(κ² + 4 sin²))/2‖f‖²` and,
    `c − 2` times, `κ/‖f‖²`. One is negative unless `f` and `y` point the same way: the loss is
    not convex, and a Gauss-Newton matrix with it is indefinite. With the normalisation inside the model and
    `squared_error` between unit vectors the loss is the same and the Gauss-Newton matrix semi-definite.

    Raises:
        InputError: by any method, outputs and targets whose shapes do not fit together; by `validate`, a zero
            vector among them, which has no direction.
    """

    name = "cosine"
    convex = False
    range = (0.0, 2.0)

    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        u, y, _ = self._directions(outputs, targets)
        return 1.0 - (u * y).sum(-1)

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i` by inner products, `O(c)` a vector."""
        u, y, length = self._directions(outputs, targets)
        cosine = (u * y).sum(-1, keepdim=True)
        v = vectors.reshape(*vectors.shape[: vectors.ndim - outputs.ndim], *u.shape)
        along, across = (v * u).sum(-1, keepdim=True), (v * y).sum(-1, keepdim=True)
        product = y * along + u * across + cosine * (v - 3.0 * u * along)
        return (product / length.square()).reshape(vectors.shape)

    def hessian_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """Refused: the Hessian has a negative eigenvalue wherever the gradient is not zero.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "loss 'cosine' is not convex in the outputs, so its Hessian has no real square root. Use "
            "curvature='hessian' with enough damping, curvature='empirical_fisher', or normalise inside the "
            "model and train with 'squared_error' on unit vectors: the same loss, with a semi-definite "
            "Gauss-Newton matrix."
        )

    def settings(self) -> dict[str, Any]:
        return {"loss": self.name}

    def _directions(
        self, outputs: Tensor, targets: Any
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"], Float[Tensor, "b 1"]]:
        """Unit outputs, unit targets and the outputs' lengths."""
        f, y = self._pair(outputs, targets)
        length = torch.linalg.vector_norm(f, dim=-1, keepdim=True)
        return f / length, y / torch.linalg.vector_norm(y, dim=-1, keepdim=True), length

    def _validate_rows(self, f: Float[Tensor, "b c"], y: Float[Tensor, "b c"]) -> None:
        fix = "Remove these examples, or use 'squared_error'."
        self._refuse_rows((f == 0).all(-1), "the output is the zero vector", fix)
        self._refuse_rows((y == 0).all(-1), "the target is the zero vector", fix)
