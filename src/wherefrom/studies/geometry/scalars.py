"""The scalar function of the outputs whose gradients are looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.influence import Measurement, resolve_measurement
from wherefrom.losses import Loss

Scalar = str | int | Measurement | Callable[[Tensor, Any], Tensor]


def resolve_scalar(scalar: Scalar, loss: Loss) -> Measurement:
    """A scalar function of an example's outputs from its name, a class or a function.

    Args:
        scalar: `"loss"` (the training loss), `"margin"` (`log p_y/(1 − p_y)` for class scores, the signed
            score for a single one), `"logit"` (the score of the target class), an integer (the output of
            that index, of outputs `(b, c)`), or a function `(outputs, targets) -> (b,)`.
        loss: of the objective.

    Raises:
        InputError: an unknown name or another type; when called, an index the outputs do not have.
        UnsupportedError: a margin or logit for a loss without classes, or for token targets.
    """
    if isinstance(scalar, bool) or not (isinstance(scalar, (str, int, Measurement)) or callable(scalar)):
        raise InputError(
            f"scalar={scalar!r} is of type {type(scalar).__name__}; expected 'loss', 'margin', 'logit', the "
            "index of an output, or a function of (outputs, targets)."
        )
    if not isinstance(scalar, int):
        return resolve_measurement(scalar, loss)

    def output(outputs: Tensor, targets: Any) -> Tensor:
        if outputs.ndim != 2 or not 0 <= scalar < outputs.shape[1]:
            raise InputError(
                f"scalar={scalar} is the index of an output, and the outputs have shape "
                f"{tuple(outputs.shape)}; expected (b, c) with c > {scalar} ≥ 0. Pass a function of "
                "(outputs, targets) for outputs of another shape."
            )
        return outputs[:, scalar]

    return Measurement(f"output {scalar}", output, higher_is_better=True)
