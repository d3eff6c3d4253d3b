"""Binary cross-entropy of logits, with labels or probabilities in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.losses._checks import require_labels
from wherefrom.losses._elementwise import ElementwiseLoss, logistic_curvature, require_reduction, softplus


@final
@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy(ElementwiseLoss):
    """`ℓ = −Σ_j [P_j y_j log σ(f_j) + (1 − y_j) log σ(−f_j)]`, summed or averaged over an example's outputs.

    Each term is exactly `torch.nn.functional.binary_cross_entropy_with_logits(..., reduction="none")` with
    the same `pos_weight`; its Hessian is `(1 + (P − 1) y) σ(f) σ(−f)`. Outputs are `(b,)`, `(b, 1)` or `(b,
    d...)`, targets of the same shape up to dimensions of size one.

    Args:
        pos_weight: `P`, a non-negative number, or values that broadcast to the outputs of one example
            `(d...)`.
        reduction_over_outputs: `"sum"`, `"mean"`, or `None` to refuse more than one output per example.

    Raises:
        InputError: an option out of range; by any method, outputs, targets and `pos_weight` that do not fit
            together.
    """

    pos_weight: Tensor | Sequence[float | int] | float | int | None = None
    reduction_over_outputs: str | None = "sum"
    _pos_weight: Tensor | None = field(init=False, repr=False, default=None)

    name = "binary_cross_entropy"
    _several_outputs_fix = "Pass BinaryCrossEntropy(reduction_over_outputs='sum' or 'mean')."

    def __post_init__(self) -> None:
        require_reduction(self.reduction_over_outputs)
        if self.pos_weight is not None:
            weight = torch.as_tensor(self.pos_weight).detach().to(torch.float64)
            if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
                raise InputError(f"pos_weight is {weight.tolist()}; expected finite non-negative weights.")
            object.__setattr__(self, "_pos_weight", weight.reshape(()) if weight.numel() == 1 else weight)

    def fisher_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """See `Loss.fisher_sqrt_blocks`. A `pos_weight` leaves no likelihood and is refused."""
        self._require_likelihood()
        return self.hessian_sqrt_blocks(outputs, targets)

    def sample_gradients(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_gradients`: `√r (σ(f) − ỹ)` with `ỹ = 1` drawn with probability `σ(f)`."""
        self._require_likelihood()
        f, _ = self._pair(outputs, targets)
        one = uniforms.to(f.device).reshape(f.shape) < torch.sigmoid(f)
        residual = torch.where(one, -torch.sigmoid(-f), torch.sigmoid(f))
        return self.to_blocks(self._scale(f) ** 0.5 * residual, outputs, targets)

    def settings(self) -> dict[str, Any]:
        return {
            "loss": self.name,
            "pos_weight": None if self._pos_weight is None else self._pos_weight.tolist(),
            "reduction_over_outputs": self.reduction_over_outputs,
        }

    def _element_losses(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        return (1.0 - y) * f + self._label_weights(f, y) * softplus(-f)

    def _element_slopes(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        # Of (1 − y) σ(f) − P y σ(−f) a label of 0 or 1 leaves one term: nothing cancels.
        label = y * (1.0 if self._pos_weight is None else self._broadcast_weight(f))
        return (1.0 - y) * torch.sigmoid(f) - label * torch.sigmoid(-f)

    def _element_curvature(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]:
        return self._label_weights(f, y) * logistic_curvature(f)

    def _validate_labels(self, outputs: Tensor, targets: Tensor) -> None:
        self._label_weights(*self._pair(outputs, targets))
        require_labels(
            (targets >= 0) & (targets <= 1),
            targets,
            self.name,
            "labels or probabilities in [0, 1]",
            "For labels −1 and +1 use loss='logistic'; for class indices use loss='cross_entropy'.",
        )

    def _label_weights(self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """`1 + (P − 1) y`."""
        if self._pos_weight is None:
            return torch.ones_like(f)
        return 1.0 + (self._broadcast_weight(f) - 1.0) * y

    def _broadcast_weight(self, f: Float[Tensor, " b *d"]) -> Tensor:
        """`P`, of a shape that broadcasts to the outputs."""
        assert self._pos_weight is not None
        weight, example = self._pos_weight, tuple(f.shape[1:])
        pairs = zip(reversed(weight.shape), reversed(example))
        if weight.ndim > len(example) or any(have not in (1, want) for have, want in pairs):
            raise InputError(
                f"pos_weight has shape {tuple(weight.shape)}, the outputs of one example shape {example}; "
                "expected one number, or values that broadcast to that shape."
            )
        return weight.to(dtype=f.dtype, device=f.device)

    def _require_likelihood(self) -> None:
        if self._pos_weight is not None:
            raise self._not_a_likelihood(
                "its pos_weight scales one label's log-probability and not the other's"
            )
