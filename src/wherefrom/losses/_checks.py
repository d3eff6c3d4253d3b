"""Checks that several losses share; each names the value, its position and the fix."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from wherefrom.errors import InputError, NonFiniteError


def require_outputs(outputs: Tensor, loss: str) -> None:
    """Outputs must be floating-point with a leading batch dimension."""
    if outputs.ndim == 0 or not outputs.is_floating_point():
        raise InputError(
            f"loss {loss!r}: the model's outputs have shape {tuple(outputs.shape)} and dtype "
            f"{outputs.dtype}; expected floating-point outputs of shape (b, ...), one row per example."
        )


def require_tensor(targets: Any, loss: str) -> Tensor:
    """Targets must be one tensor."""
    if not isinstance(targets, Tensor):
        raise InputError(
            f"loss {loss!r}: targets are of type {type(targets).__name__}; expected one torch.Tensor. "
            "Convert them in the data set, or pass a function of (outputs, targets) as the loss."
        )
    return targets


def require_finite(values: Tensor, what: str) -> None:
    """No NaN or infinity, else `NonFiniteError` with the position of the first."""
    if values.is_floating_point():
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            raise NonFiniteError(
                f"{what} contain {values[bad][0].item()} at position {first_position(bad)} "
                f"({int(bad.sum())} such values); expected finite numbers. Remove or repair these examples."
            )


def require_labels(allowed: Bool[Tensor, "..."], labels: Tensor, loss: str, expected: str, fix: str) -> None:
    """Every label must be allowed, else `InputError` with the first one that is not."""
    if not bool(allowed.all()):
        bad = ~allowed
        raise InputError(
            f"loss {loss!r}: label {labels[bad][0].item()} at position {first_position(bad)} of the batch "
            f"({int(bad.sum())} such labels); expected {expected}. {fix}"
        )


def first_position(mask: Bool[Tensor, "..."]) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in mask.nonzero()[0])
