"""Losses whose outputs do not interact: each output has a loss of its own, so the curvature is diagonal."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.losses._checks import require_finite, require_outputs, require_tensor
from wherefrom.losses.base import Loss


class ElementwiseLoss(Loss):
    """`ℓ = r Σ_j λ(f_j, y_j)` over the outputs of an example, each a block of its own (`c = 1`).

    Outputs have any shape `(b, ...)`; targets have the same shape up to dimensions of size one, so that
    outputs `(b, 1)` go with targets `(b,)` and are never broadcast to `(b, b)`.

    Attributes:
        reduction_over_outputs: `"sum"` (`r = 1`), `"mean"` (`r = 1 / outputs per example`), or `None` for a
            loss that is defined for one output per example only.
    """

    reduction_over_outputs: str | None
    convex = True
    roots_by_parts = True  # all of them are one number an output
    range = (0.0, math.inf)
    _several_outputs_fix: str  # what to do when a loss of one output meets several

    @abstractmethod
    def _element_losses(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]: ...

    @abstractmethod
    def _element_slopes(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]: ...

    @abstractmethod
    def _element_curvature(
        self, f: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"]
    ) -> Float[Tensor, " b *d"]: ...

    @abstractmethod
    def _validate_labels(self, outputs: Tensor, targets: Tensor) -> None:
        """Check the values of finite targets whose shape fits."""

    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        f, y = self._pair(outputs, targets)
        return self._scale(f) * self._element_losses(f, y).reshape(_rows(f)).sum(-1)

    def output_gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """See `Loss.output_gradient`: in closed form."""
        f, y = self._pair(outputs.detach(), targets)
        return self._scale(f) * self._element_slopes(f, y)

    def validate(self, outputs: Tensor, targets: Any) -> None:
        require_outputs(outputs, self.name)
        targets = require_tensor(targets, self.name)
        self._pair(outputs, targets)
        require_finite(targets, "targets")
        self._validate_labels(outputs, targets)

    def to_blocks(self, values: Tensor, outputs: Tensor, targets: Any) -> Float[Tensor, "*k b s c"]:
        lead = values.shape[: values.ndim - outputs.ndim]
        return values.reshape(*lead, *_rows(outputs), 1)

    def from_blocks(self, blocks: Float[Tensor, "*k b s c"], outputs: Tensor, targets: Any) -> Tensor:
        return blocks.reshape(*blocks.shape[:-3], *outputs.shape)

    def hessian_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c c"]:
        return self._diagonal(outputs, targets).reshape(*_rows(outputs), 1, 1)

    def hessian_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        return self.hessian_blocks(outputs, targets).sqrt()

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i`: one multiplication per output."""
        return vectors * self._diagonal(outputs, targets)

    def fisher_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """One multiplication per output."""
        root = self.from_blocks(self.fisher_sqrt_blocks(outputs, targets)[..., 0], outputs, targets)
        return vectors * root.square()

    def sample_roots(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """See `Loss.sample_roots`: the root of the curvature with a random sign."""
        roots = self.hessian_sqrt_blocks(outputs, targets)[..., 0]
        return torch.where((uniforms < 0.5).to(roots.device).unsqueeze(-1), roots, -roots)

    def _diagonal(self, outputs: Tensor, targets: Any) -> Tensor:
        f, y = self._pair(outputs, targets)
        return self._scale(f) * self._element_curvature(f, y)

    def _scale(self, outputs: Tensor) -> float:
        return 1.0 / max(_rows(outputs)[1], 1) if self.reduction_over_outputs == "mean" else 1.0

    def _pair(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and targets in the outputs' shape and dtype."""
        if targets.ndim == 0 or targets.shape[0] != outputs.shape[0] or _core(outputs) != _core(targets):
            raise InputError(
                f"loss {self.name!r}: outputs have shape {tuple(outputs.shape)}, targets shape "
                f"{tuple(targets.shape)}; expected one target per output, in the same shape. Reshape the "
                "targets."
            )
        if self.reduction_over_outputs is None and _rows(outputs)[1] != 1:
            raise InputError(
                f"loss {self.name!r} as given takes one output per example; outputs have shape "
                f"{tuple(outputs.shape)}: {_rows(outputs)[1]} per example. {self._several_outputs_fix}"
            )
        return outputs, targets.reshape(outputs.shape).to(outputs.dtype)


def _rows(values: Tensor) -> tuple[int, int]:
    return values.shape[0], math.prod(values.shape[1:])


def _core(values: Tensor) -> list[int]:
    return [size for size in values.shape[1:] if size != 1]


def require_reduction(reduction: str | None) -> None:
    """`reduction_over_outputs` must be one of the three that exist."""
    if reduction not in ("sum", "mean", None):
        raise InputError(f"reduction_over_outputs is {reduction!r}; expected 'sum', 'mean' or None.")


def logistic_curvature(z: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """`σ(z) σ(−z)`, the second derivative of `softplus`."""
    return torch.sigmoid(z) * torch.sigmoid(-z)


def softplus(z: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """`log(1 + e^z)`, with first and second derivatives that keep their relative accuracy for every `z`.

    `torch.nn.functional.softplus` turns linear at a threshold and `logsigmoid` subtracts sigmoids from one:
    the second derivatives of both vanish where the true one is small but not zero.
    """
    positive = z > 0
    above, below = torch.where(positive, z, 0.0), torch.where(positive, 0.0, z)
    return torch.where(positive, above + torch.log1p(torch.exp(-above)), torch.log1p(torch.exp(below)))
