"""Several pull-backs through one graph, together where torch can batch them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wherefrom.memory import is_allocation_failure


def batched_backward(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Any],
    cotangents: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """`k` pull-backs of `outputs`, whose graph is kept, to every one of `inputs`: `(k, *shape)`, or `None`
    where the graph does not reach it.

    All at once by `torch.vmap`; one after the other where some operation's backward pass cannot be batched
    (max-pooling or group normalisation on channels-last images, a user's own backward in Python).

    Args:
        inputs: tensors or gradient edges.
        cotangents: one `(k, *shape)` tensor for each of `outputs`.

    Raises:
        RuntimeError: the graph cannot be differentiated.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    cotangents = [cotangents] if isinstance(cotangents, Tensor) else list(cotangents)
    try:
        return list(
            torch.autograd.grad(
                outputs, inputs, cotangents, is_grads_batched=True, retain_graph=True, allow_unused=True
            )
        )
    except RuntimeError as error:
        if is_allocation_failure(error):
            raise
    rows = [
        torch.autograd.grad(outputs, inputs, row, retain_graph=True, allow_unused=True)
        for row in zip(*cotangents)
    ]
    return [None if column[0] is None else torch.stack(column) for column in zip(*rows)]
