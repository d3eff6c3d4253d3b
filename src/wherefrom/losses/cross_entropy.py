"""Softmax cross-entropy for classes, class probabilities and tokens, with every option of torch's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.errors import InputError
from wherefrom.losses._checks import require_outputs, require_tensor
from wherefrom.losses._class_targets import (
    class_dimension,
    require_class_indices,
    require_class_probabilities,
)
from wherefrom.losses._softmax import (
    draw_classes,
    softmax_curvature,
    softmax_curvature_apply,
    softmax_curvature_sqrt,
    softmax_minus,
    softmax_residual,
)
from wherefrom.losses.base import Loss


@final
@dataclass(frozen=True, eq=False)
class CrossEntropy(Loss):
    """`ℓ = −Σ_c w_c q_c log p_c` with `p = softmax(outputs)`, summed or averaged over an example's tokens.

    A position's loss is exactly `torch.nn.functional.cross_entropy(..., reduction="none")` with the same
    options, class weights acting on smoothed and soft targets as they do there. With `W = Σ_c w_c q_c` its
    gradient in the logits is `W p − w∘q` and its Hessian `W (diag(p) − p pᵀ)`.

    Targets are one of
        class indices `(b,)` for outputs `(b, c)`;
        tokens `(b, t...)` for outputs `(b, t..., c)`, or `(b, c, t...)` as in torch: told apart by shape;
        class probabilities, floating-point, of the outputs' shape.

    Args:
        class_weights: `w`, one non-negative weight per class; none means ones.
        label_smoothing: `ε` in `q ← (1 − ε) q + ε/c`.
        ignore_index: positions with this label have loss zero; `None` ignores nothing. An ignored example
            still counts as one of the `n` examples of the objective's mean. No meaning for class
            probabilities.
        class_dim: dimension of the outputs that holds the classes, where shapes do not decide it.
        token_reduction: `"mean"` over an example's tokens that are not ignored (zero if there are none),
            `"sum"`, or `None` to refuse outputs with more than one position per example.
        allow_ignored: whether ignored targets may occur; `False` makes `validate` refuse them.

    Raises:
        InputError: an option out of range; by any method, outputs and targets whose shapes do not fit
            together.
    """

    class_weights: Tensor | Sequence[float | int] | None = None
    label_smoothing: float | int = 0.0
    ignore_index: int | None = -100
    class_dim: int | None = None
    token_reduction: str | None = "mean"
    allow_ignored: bool = True
    _weights: Tensor | None = field(init=False, repr=False, default=None)

    name = "cross_entropy"
    convex = True
    range = (0.0, math.inf)
    shift_invariant = True
    roots_by_parts = True

    def __post_init__(self) -> None:
        number("label_smoothing", self.label_smoothing, least=0, most=1, expected="a number in [0, 1]")
        for name in ("ignore_index", "class_dim"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), expected="None or a whole number")
        if self.token_reduction not in ("mean", "sum", None):
            raise InputError(f"token_reduction is {self.token_reduction!r}; expected 'mean', 'sum' or None.")
        if self.class_weights is not None:
            weights = torch.as_tensor(self.class_weights).detach().to(torch.float64)
            if weights.ndim != 1 or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
                raise InputError(
                    f"class_weights have shape {tuple(weights.shape)}, values {weights.tolist()}; expected "
                    "one finite non-negative weight per class."
                )
            object.__setattr__(self, "_weights", weights)

    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        log_p = torch.log_softmax(self.to_blocks(outputs, outputs, targets), dim=-1)
        weights = self._class_weights(outputs)
        if targets.is_floating_point():
            mass = self._soft_targets(outputs, targets)
            losses = -(log_p * (mass if weights is None else mass * weights)).sum(-1)
        else:
            labels = self._labels(outputs, targets)
            losses = -log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            losses = losses if weights is None else losses * weights[labels]
            if self.label_smoothing > 0.0:
                spread = -(log_p if weights is None else log_p * weights).sum(-1) / log_p.shape[-1]
                losses = (1.0 - self.label_smoothing) * losses + self.label_smoothing * spread
        kept, scale = self._positions(outputs, targets)
        return (torch.where(kept, losses, 0.0) * scale).sum(-1)

    def output_gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """See `Loss.output_gradient`: `W p − w∘q` without cancellation, also where `p` is nearly `q`."""
        outputs = outputs.detach()
        p = self._probabilities(outputs, targets)
        weights = self._class_weights(outputs)
        kept, scale = self._positions(outputs, targets)
        if targets.is_floating_point():
            mass = self._soft_targets(outputs, targets)
            slopes = softmax_minus(p, mass if weights is None else mass * weights)
        else:
            labels = self._labels(outputs, targets)
            hard = None if weights is None else weights[labels].unsqueeze(-1)
            if self.label_smoothing > 0.0:
                spread = torch.full_like(p, self.label_smoothing / p.shape[-1])
                own = torch.nn.functional.one_hot(labels, p.shape[-1]).to(p) * (1.0 - self.label_smoothing)
                mass = spread + own
                slopes = softmax_minus(p, mass if weights is None else mass * weights)
            else:
                residual = softmax_residual(p, labels)
                slopes = residual if hard is None else residual * hard
        made = torch.where(kept.unsqueeze(-1), slopes, 0.0) * scale.unsqueeze(-1)
        return self.from_blocks(made, outputs, targets)

    def validate(self, outputs: Tensor, targets: Any) -> None:
        require_outputs(outputs, self.name)
        targets = require_tensor(targets, self.name)
        if outputs.ndim < 2:
            raise InputError(
                f"loss {self.name!r}: outputs have shape {tuple(outputs.shape)}; expected class scores (b, "
                "c) or (b, t..., c). For a single logit per example use loss='binary_cross_entropy'."
            )
        classes = outputs.shape[self._layout(outputs, targets)]
        if classes < 2:
            raise InputError(
                f"loss {self.name!r}: outputs of shape {tuple(outputs.shape)} hold {classes} class, for "
                "which the loss is constant; expected two or more. For a single logit use "
                "loss='binary_cross_entropy'."
            )
        if self._weights is not None and self._weights.numel() != classes:
            raise InputError(
                f"class_weights hold {self._weights.numel()} values, the outputs {classes} classes; expected "
                "one weight per class."
            )
        if targets.is_floating_point():
            require_class_probabilities(
                self.to_blocks(targets, outputs, targets), self.ignore_index, self.name
            )
        else:
            require_class_indices(targets.long(), classes, self.ignore_index, self.allow_ignored, self.name)

    def to_blocks(self, values: Tensor, outputs: Tensor, targets: Any) -> Float[Tensor, "*k b s c"]:
        class_dim = self._layout(outputs, targets)
        lead = values.shape[: values.ndim - outputs.ndim]
        classes_last = values.movedim(len(lead) + class_dim, -1)
        return classes_last.reshape(*lead, outputs.shape[0], *self._positions_and_classes(outputs, class_dim))

    def from_blocks(self, blocks: Float[Tensor, "*k b s c"], outputs: Tensor, targets: Any) -> Tensor:
        class_dim = self._layout(outputs, targets)
        lead = blocks.shape[:-3]
        shape = [size for d, size in enumerate(outputs.shape) if d != class_dim]
        return blocks.reshape(*lead, *shape, blocks.shape[-1]).movedim(-1, len(lead) + class_dim)

    def hessian_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c c"]:
        weight = self._curvature_weights(outputs, targets)
        return weight[..., None, None] * softmax_curvature(self._probabilities(outputs, targets))

    def hessian_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        weight = self._curvature_weights(outputs, targets).sqrt()
        return weight[..., None, None] * softmax_curvature_sqrt(self._probabilities(outputs, targets))

    def root_columns(self, values: int) -> int:
        """The rank of `diag(p) − p pᵀ`."""
        return values - 1

    def hessian_sqrt_part(
        self, outputs: Tensor, targets: Any, positions: slice, columns: slice
    ) -> Float[Tensor, "b s c r"]:
        weight = self._curvature_weights(outputs, targets)[:, positions].sqrt()
        p = self._probabilities(outputs, targets)[:, positions]
        return weight[..., None, None] * softmax_curvature_sqrt(p, columns)

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i` in `O(c)` per position, without a `c × c` matrix."""
        blocks = self.to_blocks(vectors, outputs, targets)
        weight = self._curvature_weights(outputs, targets).unsqueeze(-1)
        product = weight * softmax_curvature_apply(self._probabilities(outputs, targets), blocks)
        return self.from_blocks(product, outputs, targets)

    def fisher_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """See `Loss.fisher_sqrt_blocks`. Class weights or smoothing leave no likelihood and are refused."""
        self._require_likelihood()
        kept, scale = self._positions(outputs, targets)
        weight = (kept * scale).sqrt()
        return weight[..., None, None] * softmax_curvature_sqrt(self._probabilities(outputs, targets))

    def fisher_sqrt_part(
        self, outputs: Tensor, targets: Any, positions: slice, columns: slice
    ) -> Float[Tensor, "b s c r"]:
        self._require_likelihood()
        kept, scale = self._positions(outputs, targets)
        weight = (kept * scale)[:, positions].sqrt()
        p = self._probabilities(outputs, targets)[:, positions]
        return weight[..., None, None] * softmax_curvature_sqrt(p, columns)

    def fisher_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """The Hessian's product: without class weights and smoothing the two are the same."""
        self._require_likelihood()
        kept, scale = self._positions(outputs, targets)
        blocks = self.to_blocks(vectors, outputs, targets)
        product = softmax_curvature_apply(self._probabilities(outputs, targets), blocks)
        return self.from_blocks((kept * scale).unsqueeze(-1) * product, outputs, targets)

    def sample_gradients(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_gradients`: `√r (p − ỹ)` with `ỹ` drawn from `p`."""
        self._require_likelihood()
        p = self._probabilities(outputs, targets)
        labels = draw_classes(p.detach(), uniforms)
        kept, scale = self._positions(outputs, targets)
        return (kept * scale).sqrt().unsqueeze(-1) * softmax_residual(p, labels)

    def sample_roots(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_roots`: `√(r W) (p − ỹ)` with `ỹ` drawn from `p`, for any targets and weights."""
        p = self._probabilities(outputs, targets)
        weight = self._curvature_weights(outputs, targets).sqrt()
        return weight.unsqueeze(-1) * softmax_residual(p, draw_classes(p.detach(), uniforms))

    def settings(self) -> dict[str, Any]:
        return {
            "loss": self.name,
            "class_weights": None if self._weights is None else self._weights.tolist(),
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
            "class_dim": self.class_dim,
            "token_reduction": self.token_reduction,
        }

    def _require_likelihood(self) -> None:
        if self._weights is not None:
            raise self._not_a_likelihood(
                "its class_weights scale each label's probability by a power of its own"
            )
        if self.label_smoothing > 0.0:
            raise self._not_a_likelihood("its smoothed labels are not labels the model can draw")

    def _layout(self, outputs: Tensor, targets: Tensor) -> int:
        """Dimension of the outputs that holds the classes."""
        class_dim = class_dimension(outputs, targets, self.class_dim, self.name)
        positions, _ = self._positions_and_classes(outputs, class_dim)
        if self.token_reduction is None and positions != 1:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} hold {positions} positions per example and the "
                "loss does not say how they make up the example's loss. "
                "Pass loss=wherefrom.CrossEntropy(token_reduction='mean' or 'sum')."
            )
        return class_dim

    @staticmethod
    def _positions_and_classes(outputs: Tensor, class_dim: int) -> tuple[int, int]:
        return math.prod(outputs.shape[1:class_dim] + outputs.shape[class_dim + 1 :]), outputs.shape[
            class_dim
        ]

    def _class_weights(self, outputs: Tensor) -> Float[Tensor, " c"] | None:
        if self._weights is None:
            return None
        return self._weights.to(dtype=outputs.dtype, device=outputs.device)

    def _probabilities(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b s c"]:
        return torch.softmax(self.to_blocks(outputs, outputs, targets), dim=-1)

    def _ignored(self, outputs: Tensor, targets: Tensor) -> Bool[Tensor, "b s"]:
        class_dim = self._layout(outputs, targets)
        shape = (outputs.shape[0], self._positions_and_classes(outputs, class_dim)[0])
        if targets.is_floating_point() or self.ignore_index is None:
            return torch.zeros(shape, dtype=torch.bool, device=outputs.device)
        return targets.long().reshape(shape) == self.ignore_index

    def _labels(self, outputs: Tensor, targets: Tensor) -> Int[Tensor, "b s"]:
        ignored = self._ignored(outputs, targets)
        return torch.where(ignored, 0, targets.long().reshape(ignored.shape))

    def _soft_targets(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b s c"]:
        mass = self.to_blocks(targets, outputs, targets).to(outputs.dtype)
        return mass * (1.0 - self.label_smoothing) + self.label_smoothing / mass.shape[-1]

    def _positions(
        self, outputs: Tensor, targets: Tensor
    ) -> tuple[Bool[Tensor, "b s"], Float[Tensor, "b 1"]]:
        """Which positions count, and the weight `r` of each in its example's loss."""
        kept = ~self._ignored(outputs, targets)
        count = kept.sum(-1, keepdim=True).clamp(min=1).to(outputs.dtype)
        return kept, count.reciprocal() if self.token_reduction == "mean" else torch.ones_like(count)

    def _curvature_weights(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "b s"]:
        """`r W`: the position's weight times its weighted target mass; zero where ignored."""
        kept, scale = self._positions(outputs, targets)
        weights = self._class_weights(outputs)
        if targets.is_floating_point():
            mass = self._soft_targets(outputs, targets)
            total = (mass if weights is None else mass * weights).sum(-1)
        elif weights is None:
            total = torch.ones_like(kept, dtype=outputs.dtype)
        else:
            hard = weights[self._labels(outputs, targets)]
            total = (1.0 - self.label_smoothing) * hard + self.label_smoothing * weights.mean()
        return torch.where(kept, total, 0.0) * scale
