"""Gradients of NaN in the training set, refused before anything is made of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import NonFiniteError
from wherefrom.gradients import ExampleGradients


def require_finite_gradients(train: ExampleGradients, mean: Float[Tensor, " p"]) -> None:
    """Refuse a training set in which an example's gradient holds NaN or infinity: its mean holds it too.

    Raises:
        NonFiniteError: with the first such example.
    """
    if bool(torch.isfinite(mean).all()):
        return
    size = train.engine.rows_per_batch()
    for start in range(0, len(train), size):
        rows = train.rows(slice(start, min(start + size, len(train))))
        wrong = ~torch.isfinite(rows).all(1)
        if bool(wrong.any()):
            raise NonFiniteError(
                f"the gradient of train example {start + int(wrong.nonzero()[0])} holds NaN or infinity, "
                "though its loss is finite: the model or the loss has no derivative there (a square root or "
                "a norm of zero?). Add a small constant under the root, or leave the example out."
            )
    raise NonFiniteError(
        "the sum of the training gradients holds NaN or infinity: they overflow at the trained parameters. "
        "Use dtype=torch.float64, or scale the loss or the inputs."
    )
