"""The roots of an output curvature within a memory budget: how many there are, and in which parts they are
taken."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from wherefrom.curvature.metrics import OutputMetric
from wherefrom.errors import OutOfMemoryError
from wherefrom.gradients import Evaluated, GradientEngine, Linearisation

# Of the working memory: what a part of the roots may take, beside the products that it goes through.
_SHARE = 0.5


class RootParts:
    """The roots of `S_i` of the training examples, never more of them at once than the working memory holds.

    Their number is `s·r` per example for `s` positions of `r` columns: for tokens of a vocabulary about as
    many as the example has outputs `o`, so that all of them together are `o²` numbers.

    Args:
        engine: of the objective.
        metric: whose roots.

    Attributes:
        numbers: entries of one part.
    """

    def __init__(self, engine: GradientEngine, metric: OutputMetric):
        self.engine = engine
        self.metric = metric
        self.numbers = max(1, int(_SHARE * engine.work_bytes) // engine.objective.dtype.itemsize)

    @cached_property
    def first(self) -> Evaluated:
        """The first training example, by which sizes are known."""
        return self.engine.evaluated(self.engine.objective.examples, slice(0, 1))

    @cached_property
    def each(self) -> int:
        """Roots of the first training example: of every one, where sequences have one length."""
        return self.metric.count(self.first)

    @property
    def outputs_each(self) -> int:
        """Outputs of the first training example."""
        return self.first.outputs.numel()

    def parts(
        self, at: Evaluated, where: slice | Tensor, together: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The cotangents of a batch `(q, b, *outputs)`, part by part in order, with their places.

        Args:
            at, where: the batch.
            together: roots of a part at most; by default what the working memory holds.

        Raises:
            OutOfMemoryError: those of one example are made all at once or not at all, and do not fit.
        """
        require_room_for_roots(self.metric, at, self.engine.objective.memory)
        numbers = self.numbers if together is None else together * at.outputs.numel()
        return self.metric.parts(at, where, numbers)

    def examples_together(self) -> int:
        """Examples of which what is held while roots are made fits the working memory."""
        return max(1, self.numbers // max(1, self.metric.held_each(self.first)))

    def passes(self) -> Iterator[tuple[slice, Linearisation]]:
        """Linearisations that cover the training set once, of no more examples than fit."""
        size = self.examples_together()
        if size >= self.engine.batch_size:
            yield from self.engine.training_passes()
            return
        examples = self.engine.objective.examples
        for start in range(0, len(examples), size):
            where = slice(start, min(start + size, len(examples)))
            yield where, self.engine.linearise(examples, where)


def require_room_for_roots(metric: OutputMetric, at: Evaluated, memory: int) -> None:
    """Refuse roots of an example that do not fit the budget.

    Raises:
        OutOfMemoryError: with their number and what to do.
    """
    if metric.loss.roots_by_parts or metric.couples_positions:
        return
    needed = metric.held_each(at) * at.outputs.element_size()
    if needed > memory:
        outputs = at.outputs.numel() // max(1, at.outputs.shape[0])
        raise OutOfMemoryError(
            f"loss {metric.loss.name!r}: all {outputs:,} outputs of an example are taken to be coupled, so "
            f"its curvature in them is a matrix of {outputs:,} × {outputs:,} numbers, made by {outputs:,} "
            f"backward passes through the loss; its square root needs {needed / 1e9:.3g} GB, and the memory "
            f"budget is {memory / 1e9:.3g} GB. Use solver=CG() or curvature='empirical_fisher', which need "
            "no root, or a loss by name: loss='cross_entropy' knows that tokens do not mix."
        )


def require_room_for_rows(count: int, size: int, dtype: torch.dtype, memory: int) -> None:
    """Refuse explicit rows of one example, of which all are needed together, that do not fit the budget.

    Raises:
        OutOfMemoryError: they do not.
    """
    needed = 2 * count * size * dtype.itemsize + 8 * count * count
    if needed > memory:
        raise OutOfMemoryError(
            f"one example has {count:,} gradients (the roots of its output curvature) of {size:,} numbers, "
            f"which this solver needs all at once: {needed / 1e9:.3g} GB, and the memory budget is "
            f"{memory / 1e9:.3g} GB. Use curvature='empirical_fisher' or 'sampled_fisher' (one gradient an "
            "example), solver=EKFAC(), or solver=CG()."
        )
