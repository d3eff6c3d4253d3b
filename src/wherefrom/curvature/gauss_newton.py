"""`(1/n) Σ J_iᵀ S_i J_i` as an operator: GGN, Fisher and empirical Fisher differ only in `S`."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.factored_gram import (
    MAKING_A_ROW,
    FactoredGram,
    factored_gradients,
    panel_bytes,
    require_room,
)
from wherefrom.curvature.head_matrix import head_matrix, head_operations
from wherefrom.curvature.metrics import LossHessianMetric, OutputMetric, by_example
from wherefrom.curvature.roots import RootParts, require_room_for_roots, require_room_for_rows
from wherefrom.gradients import GradientEngine
from wherefrom.gradients.linear_head import LinearHeadLinearisation
from wherefrom.linalg import DenseOperator, FactoredOperator, LinearOperator
from wherefrom.memory import fitting
from wherefrom.progress import progress_bar
from wherefrom.task import sum_over_batches

# Explicit rows of so few operations take less time than factored gradients take to be proved right.
_SMALL_GRAM = 2e9
# A matrix of this size (32 MB in float64) is formed in less time than a few dozen products take.
_COMPACT_SIZE = 2048
# A matrix made column by column is no sum of squares, so that rounding may leave it indefinite: taken only
# where the columns take less than this share of the operations of the rows.
_FEWER = 0.25
# Output curvatures that are kept as matrices may take this share of the memory budget.
_KEPT_BLOCKS = 0.1
# Rows that are added to a matrix in float64 at once.
_WIDE_ROWS = 1024


class GaussNewtonOperator(FactoredOperator):
    """A Gauss-Newton matrix of the mean loss over the training set.

    `matmat` costs one forward product, one output-space product and one backward product per column and pass,
    on graphs kept between calls when they fit the memory budget. `to_dense` costs `(s·c)·n·p²` operations, or
    `c²·n·d²/2` for a linear head. It is `F Fᵀ / n` with one column `J_iᵀ l_ir` of `F` for every example and
    root of `S_i`. `run_dir` keeps what solvers of layers gather of it.
    """

    def __init__(self, engine: GradientEngine, metric: OutputMetric, run_dir: str | Path | None = None):
        objective = engine.objective
        bound = 0.0 if metric.semidefinite else -math.inf
        super().__init__(objective.p, objective.dtype, objective.device, bound)
        self.engine = engine
        self.metric = metric
        self.run_dir = run_dir
        self.n_examples = objective.n
        self.roots = RootParts(engine, metric)
        if isinstance(metric, LossHessianMetric):
            metric.room = _KEPT_BLOCKS * objective.memory
        # What was gathered about this matrix once and is wanted again: factored gradients, Kronecker factors.
        self.memo: dict[Hashable, Any] = {}

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        if vectors.shape[1] > self.engine.columns:
            return torch.cat([self.matmat(part) for part in vectors.split(self.engine.columns, dim=1)], dim=1)
        total = sum_over_batches(
            at.vjp(self.metric.apply(at.jvp(vectors), at, where))
            for where, at in self.engine.training_passes()
        )
        return total.div_(self.engine.objective.n)

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        return _MinibatchGaussNewton(self, indices)

    def compact(self) -> LinearOperator:
        """A head with fewer parameters than `2n` costs less as a matrix: `2p²` operations a column, not
        `4np`."""
        if self.engine.head is None or self.size > min(_COMPACT_SIZE, 2 * self.engine.objective.n):
            return self
        return DenseOperator(self.to_dense().to(self.dtype), self.lower_bound)

    def to_dense(self) -> Float[Tensor, "p p"]:
        """The matrix, accumulated in float64 and returned in it."""
        if self.engine.head is not None and self._positions_apart():
            return head_matrix(self)
        if self._columns_operations() < _FEWER * self._rows_operations():
            return super().to_dense().double()
        dense = torch.zeros(self.size, self.size, dtype=torch.float64, device=self.device)
        with progress_bar("matrix of the curvature", self.n_examples) as bar:
            for rows, done in self._factor_rows():
                for part in rows.split(_WIDE_ROWS):
                    wide = part.double()
                    dense.addmm_(wide.T, wide)
                bar.advance(done)
        return dense.div_(self.engine.objective.n)

    def dense_operations(self) -> float:
        if self.engine.head is not None and self._positions_apart():
            return head_operations(self)
        return min(self._rows_operations(), self._columns_operations() / _FEWER)

    def _rows_operations(self) -> float:
        """Of the matrix as a product of explicit rows in float64, and of making these."""
        rows = float(self.rank)
        return rows * (self.size * (4.0 * self.size + MAKING_A_ROW) + 2.0 * self.engine.operations_each)

    def _columns_operations(self) -> float:
        """Of the matrix column by column, as products with the unit vectors."""
        return self.engine.product_operations(self.size)

    def product_operations(self) -> float:
        return self.engine.product_operations(1)

    @property
    def fixed_rank(self) -> bool:  # type: ignore[override]
        return self.engine.objective.examples.uniform

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Columns of the factor: `n` times the roots per example."""
        return self.engine.objective.n * self.roots.each

    def factor_apply(self, coefficients: Float[Tensor, "m k"]) -> Float[Tensor, "p k"]:
        if coefficients.shape[1] > self.engine.columns:
            parts = coefficients.split(self.engine.columns, dim=1)
            return torch.cat([self.factor_apply(part) for part in parts], dim=1)
        return sum_over_batches(self._factor_products(coefficients))

    def _factor_products(self, coefficients: Float[Tensor, "m k"]) -> Iterator[Float[Tensor, "p k"]]:
        """What each batch adds to `F c`."""
        start = 0
        for where, at in self.roots.passes():
            r, b = self.metric.count(at), at.outputs.shape[0]
            own = coefficients[start : start + b * r].reshape(b, r, -1).to(self.dtype)
            mixed = torch.zeros(own.shape[2], *at.outputs.shape, dtype=self.dtype, device=self.device)
            for place, roots in self.roots.parts(at, where):
                mixed += torch.einsum("brk,rbo->kbo", own[:, place], by_example(roots)).reshape(mixed.shape)
            yield at.vjp(mixed)
            start += b * r

    def factor_adjoint(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "m k"]:
        if vectors.shape[1] > self.engine.columns:
            columns = vectors.split(self.engine.columns, dim=1)
            return torch.cat([self.factor_adjoint(part) for part in columns], dim=1)
        made = []
        for where, at in self.roots.passes():
            tangents = by_example(at.jvp(vectors))
            inner = [
                torch.einsum("rbo,kbo->brk", by_example(roots), tangents)
                for _, roots in self.roots.parts(at, where)
            ]
            made.append(torch.cat(inner, dim=1).reshape(-1, vectors.shape[1]))
        return torch.cat(made)

    def factor_gram(
        self, scale: Float[Tensor, " p"], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "m m"]:
        """`Fᵀ diag(scale) F`, from factored gradients where that takes fewer operations than explicit ones.

        Raises:
            OutOfMemoryError: the matrix does not fit into what is free.
        """
        require_room(self.rank, dtype, self.device)
        factored = self._factored_gram()
        if factored is not None:
            return factored.matrix(scale, dtype)
        return self._explicit_gram(scale, dtype)

    def gram_operations(self) -> float:
        factored = self._factored_gram()
        if factored is None:
            return self._explicit_operations()
        return factored.operations + self.rank * 2.0 * self.engine.operations_each

    def _explicit_operations(self) -> float:
        """Of products of explicit rows, and of making these."""
        rows = float(self.rank)
        return rows * (self.size * (rows + MAKING_A_ROW) + 2.0 * self.engine.operations_each)

    def _factored_gram(self) -> FactoredGram | None:
        """The way by factored gradients, where it exists and is the cheaper one."""
        key = "factored Gram matrix"
        if key not in self.memo:
            explicit = self._explicit_operations()
            layers = factored_gradients(self.engine, self.memo) if explicit > _SMALL_GRAM else None
            factored = None if layers is None else FactoredGram(layers, self.metric)
            cheaper = factored is not None and factored.operations < explicit
            self.memo[key] = factored if cheaper else None
        found: FactoredGram | None = self.memo[key]
        return found

    def _explicit_gram(self, scale: Float[Tensor, " p"], dtype: torch.dtype) -> Float[Tensor, "m m"]:
        """In panels: as many rows of `Fᵀ` as fit are held while the others are made again beside them."""
        objective = self.engine.objective
        total = self.rank
        each = total // objective.n
        gram = torch.empty(total, total, dtype=dtype, device=self.device)
        held = max(1, panel_bytes(objective, total, dtype) // (dtype.itemsize * self.size * each))
        panels = range(0, objective.n, held)
        with progress_bar("Gram matrix", sum(objective.n - first for first in panels)) as bar:
            for first in panels:
                last = min(first + held, objective.n)
                panel = torch.cat([rows for rows, _ in self._factor_rows(first, last)])
                panel = panel.to(dtype) * scale.to(dtype)
                column = first * each
                for rows, done in self._factor_rows(first, objective.n):
                    product = panel @ rows.to(dtype).T
                    here, there = slice(first * each, last * each), slice(column, column + rows.shape[0])
                    gram[here, there] = product
                    gram[there, here] = product.T
                    column += rows.shape[0]
                    bar.advance(done)
        return gram

    def factor_examples(self) -> Iterator[Float[Tensor, "b r p"]]:
        """See `FactoredOperator.factor_examples`.

        Raises:
            OutOfMemoryError: the roots of one example do not fit the memory budget.
        """
        examples = self.engine.objective.examples
        require_room_for_rows(self.roots.each, self.size, self.dtype, self.engine.objective.memory)
        size = self._row_batch(self.roots.each)
        for start in range(0, len(examples), size):
            where = slice(start, min(start + size, len(examples)))
            at = self.engine.linearise(examples, where)
            require_room_for_roots(self.metric, at, self.engine.objective.memory)
            yield at.vjp_each(self.metric.cotangents(at, where))

    @property
    def layers(self) -> dict[str, list[slice]]:
        """Parameters by the module that holds them."""
        parameters = self.engine.objective.parameters
        found: dict[str, list[slice]] = {}
        start = 0
        for name, size in zip(parameters.names, parameters.sizes):
            found.setdefault(name.rpartition(".")[0], []).append(slice(start, start + size))
            start += size
        return found

    def _factor_rows(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[Float[Tensor, "r p"], int]]:
        """Explicit rows `l_irᵀ J_i`, example by example from `first` to `last`, in chunks that fit the
        working memory, and how many examples each completes."""
        examples = self.engine.objective.examples
        last = len(examples) if last is None else last
        size = self._row_batch(self.roots.each)
        for start in range(first, last, size):
            where = slice(start, min(start + size, last))
            at = self.engine.linearise(examples, where)
            if at.outputs.shape[0] > 1:
                require_room_for_roots(self.metric, at, self.engine.objective.memory)
                yield at.vjp_each(self.metric.cotangents(at, where)).flatten(0, 1), where.stop - start
                continue
            left = self.metric.count(at)
            for _, roots in self.roots.parts(at, where):
                for some in roots.split(self._rows_together()):
                    left -= some.shape[0]
                    yield at.vjp_each(some).flatten(0, 1), int(left == 0)

    def _row_batch(self, roots: int) -> int:
        """Examples whose explicit rows, and the roots these are made of, fit the working memory."""
        outputs = max(1, self.roots.outputs_each * roots)
        fitting = min(self.roots.examples_together(), max(1, self.roots.numbers // outputs))
        return min(self.engine.rows_per_batch(roots), fitting)

    def _rows_together(self) -> int:
        """Explicit rows of one example that fit the working memory."""
        return fitting(self.engine.work_bytes, 2 * self.size * self.dtype.itemsize)

    def _positions_apart(self) -> bool:
        """Whether the output curvature couples only outputs of one position of the linear head."""
        if not self.engine.objective.examples.uniform:  # what holds for one batch need not for the next
            return False
        at = self.engine.linearise(self.engine.objective.examples, slice(0, 1))
        assert isinstance(at, LinearHeadLinearisation)
        positions = at.features.shape[1]
        if positions == 1 or self.metric.couples_positions:
            return positions == 1
        numbers = torch.arange(at.outputs.numel(), device=self.device) // at.width
        blocks = self.metric.loss.to_blocks(
            numbers.to(self.dtype).reshape(at.outputs.shape), at.outputs, at.targets
        )
        return bool((blocks == blocks[..., :1]).all())


class _MinibatchGaussNewton(LinearOperator):
    """The same matrix averaged over a few examples."""

    def __init__(self, full: GaussNewtonOperator, indices: Int[Tensor, " b"]):
        super().__init__(full.size, full.dtype, full.device, full.lower_bound)
        self._metric = full.metric
        self._indices = indices
        self._at = full.engine.linearise(full.engine.objective.examples, indices)
        self.n_examples = len(indices)

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        at = self._at
        return at.vjp(self._metric.apply(at.jvp(vectors), at, self._indices)) / len(self._indices)
