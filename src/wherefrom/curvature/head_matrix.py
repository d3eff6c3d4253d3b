"""The dense Gauss-Newton matrix of a linear head, `Σ S_i ⊗ a_i a_iᵀ / n`, by weighted Gram products of the
features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.head import CHUNK, HeadHessian
from wherefrom.gradients.linear_head import LinearHeadLinearisation
from wherefrom.memory import fitting
from wherefrom.progress import progress_bar

if TYPE_CHECKING:
    from wherefrom.curvature.gauss_newton import GaussNewtonOperator


def head_operations(operator: GaussNewtonOperator) -> float:
    """Operations of `head_matrix`, in float64, about: five eighths of those of all pairs of classes."""
    head = operator.engine.head
    assert head is not None
    return (
        2 * 0.65 * operator.engine.objective.n * head.outputs_each * operator.size * head.module.in_features
    )


def head_matrix(operator: GaussNewtonOperator) -> Float[Tensor, "p p"]:
    """The matrix, in float64, for an output curvature that does not couple positions.

    Rows of `S_i` are made class by class for a few examples at a time: nothing grows with (examples ×
    classes²) beyond the working memory.
    """
    engine, metric = operator.engine, operator.metric
    total: HeadHessian | None = None
    with progress_bar("matrix of the curvature", operator.n_examples) as bar:
        for where, whole in engine.training_passes():
            assert isinstance(whole, LinearHeadLinearisation)
            s, width = whole.features.shape[1], whole.width
            if total is None:
                total = HeadHessian(
                    whole.features.shape[2],
                    width,
                    include_bias=whole.has_bias,
                    rows_sum_to_zero=metric.loss.shift_invariant,
                    device=operator.device,
                )
            each = s * width * width * operator.dtype.itemsize
            size = fitting(engine.work_bytes, each, CHUNK // s)
            for start in range(where.start, where.stop, size):
                part = slice(start, min(start + size, where.stop))
                whole_batch = part.stop - part.start == where.stop - where.start
                at = whole if whole_batch else engine.linearise(engine.objective.examples, part)
                assert isinstance(at, LinearHeadLinearisation)
                rows = _Rows(operator, at, part)
                total.add_rows(at.features.flatten(0, 1), rows)
                bar.advance(part.stop - part.start)
    assert total is not None
    return total.dense(float(operator.engine.objective.n))


class _Rows:
    """Rows `S[where, c, c:]` of the output curvatures of a batch, asked for class by class; as many classes
    are made together as fit the working memory."""

    def __init__(self, operator: GaussNewtonOperator, at: LinearHeadLinearisation, where: slice):
        self._metric, self._at, self._where = operator.metric, at, where
        each = at.outputs.numel() * at.outputs.element_size()
        self._together = fitting(operator.engine.work_bytes, each, at.width)
        self._first = 0
        self._made: Tensor | None = None  # (classes, positions, width)

    def __call__(self, where: slice, c: int) -> Float[Tensor, "n w"]:
        if self._made is None or not self._first <= c < self._first + self._made.shape[0]:
            self._first = c
            self._made = self._columns(c)
        # S is symmetric: column c is row c.
        return self._made[c - self._first, where, c:].double()

    def _columns(self, first: int) -> Float[Tensor, "k n w"]:
        at = self._at
        b, s, _ = at.features.shape
        stop = min(first + self._together, at.width)
        units = torch.zeros(stop - first, at.width, dtype=at.outputs.dtype, device=at.outputs.device)
        units[torch.arange(stop - first), torch.arange(first, stop)] = 1
        spread = units[:, None, None].expand(stop - first, b, s, at.width)
        bent = self._metric.apply(spread.reshape(stop - first, *at.outputs.shape), at, self._where)
        return bent.reshape(stop - first, b * s, at.width)
