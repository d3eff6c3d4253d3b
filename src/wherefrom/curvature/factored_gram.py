"""`Fᵀ diag(s) F` of a Gauss-Newton factor from factored gradients: `Σ_layers (a·a')(δ·δ')`, no Jacobian."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.gram_sides import Side, pairs_side, rows_side, separable
from wherefrom.curvature.metrics import OutputMetric
from wherefrom.errors import OutOfMemoryError, UnsupportedError
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.layers import Block, OuterProducts, TokenOuterProducts
from wherefrom.memory import available_memory
from wherefrom.progress import progress_bar
from wherefrom.task import Objective

# Rows of a tile of the Gram matrix: products at full speed, and the tile stays in cache.
_TILE_ROWS = 1152
# A panel takes this share of what the matrix leaves of the memory budget, and of this share of it at least.
_PANEL_SHARE = 0.4
_LEAST_SHARE = 0.1
# Entry-by-entry work on a product, in operations of a matrix product that take as long.
_ELEMENTWISE = 32
# Making an entry of an explicit gradient, in the same unit.
MAKING_A_ROW = 64
# Products of all positions of one pair of examples may take this many numbers.
_MOST_PAIRS = 2**23
# The matrix may take this share of what is free; the rest is for tiles and solutions.
_FREE_SHARE = 0.9


def factored_gradients(engine: GradientEngine, memo: MutableMapping[Hashable, Any]) -> LayerGradients | None:
    """Factored gradients of an objective, made once; explicit ones for modules without a rule, however large.
    `None` for a model that hooks cannot see into."""
    for strict in (True, False):
        key = ("layers", strict)
        if key not in memo:
            try:
                memo[key] = LayerGradients(engine, strict=strict)
            except UnsupportedError:
                continue
        found: LayerGradients = memo[key]
        return found
    return None


def panel_bytes(objective: Objective, size: int, dtype: torch.dtype) -> int:
    """Memory for what is held of one panel of examples while the others pass by, beside the matrix itself."""
    left = objective.memory - size * size * dtype.itemsize
    return int(_PANEL_SHARE * max(left, _LEAST_SHARE * objective.memory))


def require_room(size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a square matrix that does not fit into what is free.

    Raises:
        OutOfMemoryError: it does not.
    """
    needed, free = size * size * dtype.itemsize, available_memory(device)
    if needed > _FREE_SHARE * free:
        raise OutOfMemoryError(
            f"the Gram matrix of the dual space has {size:,} rows (training examples × roots of their output "
            f"curvature) and needs {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free. Use fewer training "
            "examples, solver=EKFAC(), or solver=CG() for the same matrix."
        )


class FactoredGram:
    """The Gram matrix of the columns `J_iᵀ l_ir` of a Gauss-Newton factor, block of parameters by block.

    Per block by the cheaper of two ways: products of activations times products of gradients, `T²` of each
    for a pair of examples with `T` positions; or explicit gradients of this block. A `scale` that is constant
    along one side of a block (weight decay that spares the bias, say) goes into that side; one that is not
    leaves the block to explicit gradients.

    Args:
        layers: factored gradients.
        metric: whose roots are the cotangents.

    Attributes:
        roots: per example.
        operations: predicted, for a scale that is constant in each block.
    """

    def __init__(self, layers: LayerGradients, metric: OutputMetric):
        self._layers = layers
        self._metric = metric
        probe = layers.capture(layers.objective.examples, slice(0, 1))
        self.roots = metric.count(probe)
        forms = probe.gradients(torch.ones_like(probe.outputs)[None])
        # None for a form that only a rule of the user's own knows: its rows are used.
        self._positions = [
            form.positions if isinstance(form, (OuterProducts, TokenOuterProducts)) else None
            for form in forms
        ]
        self.operations = sum(
            min(self._pairs_cost(block, t), self._rows_cost(block, t))
            for block, t in zip(layers.blocks, self._positions)
        )

    def matrix(
        self, scale: Float[Tensor, " p"], dtype: torch.dtype, *, progress: bool = True
    ) -> Float[Tensor, "m m"]:
        """`Fᵀ diag(scale) F`, example by example and root by root, symmetric to the last bit.

        Args:
            scale: of the parameters.
            dtype: of the matrix and of all products. In float32 an entry is right to a few units of rounding
                of `‖f_i‖ ‖f_j‖`.
            progress: show a bar.
        """
        objective = self._layers.objective
        n, r = objective.n, self.roots
        ways = self._ways(scale)
        gram = torch.empty(n * r, n * r, dtype=dtype, device=objective.device)
        size, panel = self._sizes(ways, dtype)
        tiles = -(-n // size)
        with progress_bar("Gram matrix", tiles * (tiles + 1) // 2, enabled=progress) as bar:
            for first in range(0, n, panel):
                last = min(first + panel, n)
                held = list(self._tiles(first, last, size, ways, dtype))
                for position, (where, sides) in enumerate(held):
                    scaled = [side.scaled(scale) for side in sides]
                    for there, others in held[position:]:
                        self._fill(gram, where, there, scaled, others)
                        bar.advance()
                for there, others in self._tiles(last, n, size, ways, dtype):
                    scaled = [side.scaled(scale) for side in others]
                    for where, sides in held:
                        self._fill(gram, there, where, scaled, sides)
                        bar.advance()
        return gram

    def _fill(
        self, gram: Tensor, where: slice, there: slice, sides: Sequence[Side], others: Sequence[Side]
    ) -> None:
        """The products of two tiles of examples, and their mirror image."""
        r, b, c = self.roots, where.stop - where.start, there.stop - there.start
        # Root by root inside a tile, so that entry-by-entry products run along examples.
        tile = torch.zeros(r, b, r, c, dtype=gram.dtype, device=gram.device)
        for side, other in zip(sides, others):
            side.add_products(other, tile)
        block = tile.permute(1, 0, 3, 2).reshape(b * r, c * r)
        rows, columns = slice(where.start * r, where.stop * r), slice(there.start * r, there.stop * r)
        if where == there:
            block = block.tril() + block.tril(-1).T
        gram[rows, columns] = block
        if where != there:
            gram[columns, rows] = block.T

    def _tiles(
        self, first: int, last: int, size: int, ways: Sequence[str], dtype: torch.dtype
    ) -> Iterator[tuple[slice, list[Side]]]:
        """Examples from `first` to `last`, `size` at a time."""
        layers = self._layers
        batch = max(1, layers.batch_size(self.roots) // size) * size
        for start in range(first, last, batch):
            stop = min(start + batch, last)
            capture = layers.capture(layers.objective.examples, slice(start, stop))
            forms = capture.gradients(self._metric.cotangents(capture, slice(start, stop)))
            del capture
            for at in range(start, stop, size):
                end = min(at + size, stop)
                picked = [form.select(slice(at - start, end - start)) for form in forms]
                yield (
                    slice(at, end),
                    [
                        pairs_side(form, block, dtype, _TILE_ROWS)
                        if way == "pairs"
                        else rows_side(form, block, dtype)
                        for form, block, way in zip(picked, layers.blocks, ways)
                    ],
                )

    def _ways(self, scale: Tensor) -> list[str]:
        return [
            "pairs"
            if self._pairs_cost(block, t) <= self._rows_cost(block, t) and separable(block, scale)
            else "rows"
            for block, t in zip(self._layers.blocks, self._positions)
        ]

    def _sizes(self, ways: Sequence[str], dtype: torch.dtype) -> tuple[int, int]:
        """Examples of a tile, and of a panel of whole tiles."""
        layers, r = self._layers, self.roots
        held = 0
        for block, t, way in zip(layers.blocks, self._positions, ways):
            g, o, i = block.shape
            if t is None or way == "rows":
                held += r * block.size
            else:
                held += t * g * ((1 if block.kind == "tokens" else i) + r * o)
        room = panel_bytes(layers.objective, layers.objective.n * r, dtype) // (held * dtype.itemsize)
        size = max(1, min(_TILE_ROWS // r, layers.batch_size(r), room // 2))
        return size, max(1, room // size) * size

    def _pairs_cost(self, block: Block, positions: int | None) -> float:
        g, o, i = block.shape
        n, r = self._layers.objective.n, self.roots
        if positions is None or (r * positions) ** 2 > _MOST_PAIRS:
            return float("inf")
        inner = 1 if block.kind == "tokens" else i
        return float(n * positions) ** 2 * g * (inner + r * r * (o + _ELEMENTWISE))

    def _rows_cost(self, block: Block, positions: int | None) -> float:
        rows = float(self._layers.objective.n * self.roots)
        return rows * block.size * (rows + 2 * (positions or 1) + MAKING_A_ROW)
