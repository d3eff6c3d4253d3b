"""Losses between two vectors: all outputs of an example are one block, its target a vector of their shape."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.losses._checks import require_finite, require_outputs, require_tensor
from wherefrom.losses.base import Loss


class VectorLoss(Loss):
    """`ℓ(f, y)` of the outputs and the target of an example, both seen as vectors in `R^c`.

    Outputs have any shape `(b, ...)`; targets have the same shape up to dimensions of size one.
    """

    def validate(self, outputs: Tensor, targets: Any) -> None:
        require_outputs(outputs, self.name)
        f, y = self._pair(outputs, require_tensor(targets, self.name))
        require_finite(y, "targets")
        self._validate_rows(f, y)

    def to_blocks(self, values: Tensor, outputs: Tensor, targets: Any) -> Float[Tensor, "*k b s c"]:
        lead = values.shape[: values.ndim - outputs.ndim]
        return values.reshape(*lead, outputs.shape[0], 1, math.prod(outputs.shape[1:]))

    def from_blocks(self, blocks: Float[Tensor, "*k b s c"], outputs: Tensor, targets: Any) -> Tensor:
        return blocks.reshape(*blocks.shape[:-3], *outputs.shape)

    def hessian_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c c"]:
        """The closed form applied to the identity."""
        size = math.prod(outputs.shape[1:])
        units = torch.eye(size, dtype=outputs.dtype, device=outputs.device)
        spread = units[:, None].expand(size, outputs.shape[0], size).reshape(size, *outputs.shape)
        columns = self.hessian_apply(spread, outputs, targets).reshape(size, outputs.shape[0], 1, size)
        blocks = columns.movedim(0, -1)
        return 0.5 * (blocks + blocks.mT)

    def _validate_rows(self, f: Float[Tensor, "b c"], y: Float[Tensor, "b c"]) -> None:
        """Refuse pairs at which the loss has no derivative."""

    def _refuse_rows(self, bad: Tensor, what: str, fix: str) -> None:
        if bool(bad.any()):
            raise InputError(
                f"loss {self.name!r}: {what} for example {int(bad.nonzero()[0, 0])} of the batch "
                f"({int(bad.sum())} such examples), where it has no derivative. {fix}"
            )

    def _pair(self, outputs: Tensor, targets: Tensor) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """Outputs and targets as rows, the targets in the outputs' dtype."""
        if targets.ndim == 0 or targets.shape[0] != outputs.shape[0] or _core(outputs) != _core(targets):
            raise InputError(
                f"loss {self.name!r}: outputs have shape {tuple(outputs.shape)}, targets shape "
                f"{tuple(targets.shape)}; expected one target vector per example, in the outputs' shape. "
                "Reshape the targets."
            )
        rows = (outputs.shape[0], math.prod(outputs.shape[1:]))
        return outputs.reshape(rows), targets.reshape(rows).to(outputs.dtype)


def _core(values: Tensor) -> list[int]:
    return [size for size in values.shape[1:] if size != 1]
