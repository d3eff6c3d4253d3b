"""Dense curvature of a linear last layer, `Σ_i S_i ⊗ ẽ_i ẽ_iᵀ`, by weighted Gram products of the features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError

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
        together = 1 if self.width >= 2 * STRIPE_WIDTH else self.classes
        # One buffer for all products: page faults of fresh memory would cost more than the multiplication.
        buffer: Tensor | None = None
        for where in self._chunks(features.shape[0], self.width * (1 + together) + 2 * self.classes):
            chunk = features[where].to(self.dtype)
            if buffer is None:
                buffer = chunk.new_empty(chunk.shape[0] * self.width * together)
            for c in range(self.classes - skip):
                self._add_class(chunk, row(where, c)[:, skip:], c, buffer)

    def dense(self, divide_by: float | int = 1) -> Float[Tensor, "p p"]:
        """`H / divide_by`, symmetric to the last bit. The accumulated matrix is handed over: call it last."""
        result, d, cd = self._sum, self.width, self.classes * self.width
        for c, other in self._pairs():
            block = self._block(c, other)
            block.triu_().add_(block.triu(1).T)
            if other != c:
                self._block(other, c).copy_(block)
        if self.include_bias:
            borders = result[:cd, cd:].unflatten(0, (self.classes, d))  # written into
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

    def add_softmax(
        self, features: Float[Tensor, "n d"], p: Float[Tensor, "n c"], weights: Float[Tensor, " n"] | None
    ) -> None:
        """Add examples with `S_i = w_i (diag(p_i) − p_i p_iᵀ)`; needs `rows_sum_to_zero`.

        Wide features take the pairs of `add_rows`. For narrow ones those products are too slim for GEMM to be
        fast, and `−U_iᵀU_i`, `U_i = p_i ⊗ ẽ_i`, is multiplied out for all classes at once, without use of its
        diagonal blocks.

        Raises:
            InputError: the accumulator was made without `rows_sum_to_zero`.
        """
        if not self.rows_sum_to_zero:
            raise InputError(
                "rows_sum_to_zero is False; expected HeadHessian(..., rows_sum_to_zero=True) here."
            )
        p = p.to(self.dtype)
        scaled = p if weights is None else p * weights.to(self.dtype).unsqueeze(1)
        if self.width >= 2 * STRIPE_WIDTH:
            self.add_rows(features, lambda where, c: -scaled[where, c : c + 1] * p[where, c:])
            return
        size = self._sum.shape[0]
        stripe = max(STRIPE_WIDTH, -(-size // STRIPES))
        for where in self._chunks(features.shape[0], 2 * size):
            chunk = features[where].to(self.dtype)
            right = self._outer(p[where], chunk)
            left = right if weights is None else self._outer(scaled[where], chunk)
            for a in range(0, size, stripe):
                self._sum[a : a + stripe, a:].addmm_(left[:, a : a + stripe].T, right[:, a:], alpha=-1.0)

    def _outer(self, p: Float[Tensor, "m c"], chunk: Float[Tensor, "m d"]) -> Float[Tensor, "m p"]:
        products = (p.unsqueeze(2) * chunk.unsqueeze(1)).flatten(1)
        return torch.cat([products, p], dim=1) if self.include_bias else products

    def _add_class(
        self, chunk: Float[Tensor, "m d"], row: Float[Tensor, "m k"], c: int, buffer: Float[Tensor, " size"]
    ) -> None:
        """Add the last `k` blocks of block row `c` for one chunk; `buffer` takes the weighted features."""
        m, d, cd = chunk.shape[0], self.width, self.classes * self.width
        first = self.classes - row.shape[1]
        stripe = d if d < 2 * STRIPE_WIDTH else max(STRIPE_WIDTH, -(-d // STRIPES))
        together = 1 if stripe < d else max(1, buffer.numel() // max(1, m * d))
        for start in range(0, row.shape[1], together):
            part = row[:, start : start + together]
            weighted = buffer[: m * part.shape[1] * d].view(m, -1)
            torch.mul(part.unsqueeze(2), chunk.unsqueeze(1), out=weighted.view(m, -1, d))
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
            diagonal = self._block(c, c).zero_()
            for other in range(self.classes):
                if other != c:
                    diagonal.sub_(self._block(c, other))
            if self.include_bias:
                for rows in (slice(c * d, (c + 1) * d), slice(cd + c, cd + c + 1)):
                    border = self._sum[rows, cd:]
                    border[:, c] = 0.0
                    border[:, c] = -border.sum(1)

    def _block(self, c: int, other: int) -> Float[Tensor, "d d"]:
        d = self.width
        return self._sum[c * d : (c + 1) * d, other * d : (other + 1) * d]

    def _pairs(self) -> Iterator[tuple[int, int]]:
        skip = 1 if self.rows_sum_to_zero else 0
        return ((c, other) for c in range(self.classes) for other in range(c + skip, self.classes))

    def _chunks(self, n: int, row_size: int) -> Iterator[slice]:
        size = max(1, min(CHUNK, self._workspace // (row_size * self._sum.element_size())))
        return (slice(start, min(start + size, n)) for start in range(0, n, size))
