"""Dense curvature of a linear last layer, `Σ_i S_i ⊗ ẽ_i ẽ_iᵀ`, by weighted Gram products of the features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

# (k + 1)/2k of a symmetric product's operations: 5/8 at k = 4; thinner stripes lose more in GEMM speed.
STRIPES = 4
# No stripe below this: GEMM is slow on slimmer ones.
STRIPE_WIDTH = 96
# Rows per GEMM: enough that adding into the result costs little beside the product.
CHUNK = 4096
WORKSPACE = 128 << 20


class HeadHessian:
    """Accumulates `H = Σ_i S_i ⊗ ẽ_i ẽ_iᵀ` over any number of calls; `ẽ = e`, or `(e, 1)` with a bias.

    Every `(c, c')` block `Eᵀ diag(S_cc') E` is symmetric and equals the block `(c', c)`, so only the upper
    triangle of the blocks with `c ≤ c'` is multiplied out; with `S 1 = 0` only `c < c'`, the diagonal being
    minus the sum of the others. Nothing of size `n × (c·d)` is formed. The layout is row-major `W`, then the
    biases.

    Args:
        width: `d`, features.
        classes: `c`, outputs.
        include_bias: whether to add the `c` rows and columns of a bias.
        rows_sum_to_zero: whether every `S_i 1 = 0`.
        dtype: of computation and result.
        device: of computation and result.
        workspace: bytes that may be used beside the result.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        include_bias: bool,
        rows_sum_to_zero: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        workspace: int | None = None,
    ):
        self.width = width
        self.classes = classes
        self.include_bias = include_bias
        self.rows_sum_to_zero = rows_sum_to_zero
        self.dtype = dtype
        self._workspace = WORKSPACE if workspace is None else workspace
        size = classes * width + (classes if include_bias else 0)
        self._sum = torch.zeros(size, size, dtype=dtype, device=device)

    def add(self, features: Float[Tensor, "n d"], blocks: Float[Tensor, "n c c"]) -> None:
        """Add examples with their output curvatures `S_i`, of which the upper triangles are read."""
        self.add_rows(features, lambda where, c: blocks[where, c, c:].to(self.dtype))

    def add_rows(self, features: Float[Tensor, "n d"], row: Callable[[slice, int], Tensor]) -> None:
        """Add examples whose curvatures are made as needed: `row(where, c)` is `S[where, c, c:]`."""
        skip = 1 if self.rows_sum_to_zero else 0
        for where in self._chunks(features.shape[0]):
            chunk = features[where].to(self.dtype)
            for c in range(self.classes - skip):
                self._add_class(chunk, row(where, c)[:, skip:], c, c + skip)

    def dense(self, divide_by: float = 1.0) -> Float[Tensor, "p p"]:
        """`H / divide_by`, symmetric to the last bit. The accumulated matrix is handed over: call it last."""
        result, d, cd = self._sum, self.width, self.classes * self.width
        for c, other in self._pairs():
            block = self._block(c, other)
            block.triu_().add_(block.triu(1).T)
            if other != c:
                self._block(other, c).copy_(block)
        if self.include_bias:
            borders = result[:cd, cd:].view(self.classes, d, self.classes)
            corner = result[cd:, cd:]
            for c, other in self._pairs():
                borders[other, :, c] = borders[c, :, other]
                corner[other, c] = corner[c, other]
        if self.rows_sum_to_zero:
            self._fill_diagonal()
        if self.include_bias:
            result[cd:, :cd] = result[:cd, cd:].T
        del self._sum
        return result.div_(divide_by)

    def _add_class(self, chunk: Float[Tensor, "m d"], row: Float[Tensor, "m k"], c: int, first: int) -> None:
        """Add blocks `(c, first), (c, first + 1), …` of one chunk."""
        m, d, cd = chunk.shape[0], self.width, self.classes * self.width
        stripe = d if d < 2 * STRIPE_WIDTH else max(STRIPE_WIDTH, -(-d // STRIPES))
        together = 1 if stripe < d else max(1, self._workspace // max(1, m * d * self._sum.element_size()))
        for start in range(0, row.shape[1], together):
            part = row[:, start : start + together]
            weighted = (part.unsqueeze(2) * chunk.unsqueeze(1)).view(m, -1)
            left = (first + start) * d
            for a in range(0, d, stripe):
                # Columns from `a` on: what is left of the diagonal follows by symmetry.
                target = self._sum[
                    c * d + a : c * d + min(a + stripe, d), left + a : left + weighted.shape[1]
                ]
                target.addmm_(chunk[:, a : a + stripe].T, weighted[:, a:])
        if self.include_bias:
            self._sum[c * d : (c + 1) * d, cd + first : cd + self.classes].addmm_(chunk.T, row)
            self._sum[cd + c, cd + first : cd + self.classes] += row.sum(0)

    def _fill_diagonal(self) -> None:
        d, cd = self.width, self.classes * self.width
        for c in range(self.classes):
            diagonal = self._block(c, c)
            for other in range(self.classes):
                if other != c:
                    diagonal.sub_(self._block(c, other))
            if self.include_bias:
                border = self._sum[c * d : (c + 1) * d, cd:]
                border[:, c] = -border.sum(1)
                self._sum[cd + c, cd + c] = -self._sum[cd + c, cd:].sum()

    def _block(self, c: int, other: int) -> Float[Tensor, "d d"]:
        d = self.width
        return self._sum[c * d : (c + 1) * d, other * d : (other + 1) * d]

    def _pairs(self) -> Iterator[tuple[int, int]]:
        skip = 1 if self.rows_sum_to_zero else 0
        return ((c, other) for c in range(self.classes) for other in range(c + skip, self.classes))

    def _chunks(self, n: int) -> Iterator[slice]:
        row_bytes = (2 * self.width + 2 * self.classes) * self._sum.element_size()
        size = max(1, min(CHUNK, self._workspace // row_bytes))
        return (slice(start, min(start + size, n)) for start in range(0, n, size))
