"""Sums over the training set."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def sum_over_batches(parts: Iterable[Tensor]) -> Tensor:
    """`Σ` of what the batches of the training set give, at least one, each a new tensor.

    The one place where products and gradients are added up over the training set: where it is shared between
    processes, each gives its own batches, and their sums are added here.
    """
    total: Tensor | None = None
    for part in parts:
        # In the first batch's own memory: with many columns every pass over it costs as much as the algebra.
        total = part if total is None else total.add_(part)
    assert total is not None  # a training set has examples
    return total
