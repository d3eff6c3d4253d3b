"""Gradients of embedding tables: only the columns of tokens that occur on both sides are touched."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.layers import GradientForm, TokenOuterProducts
from wherefrom.solvers.contraction.scorers import PIECE, BlockScorer


class TokenScorer(BlockScorer):
    """`X_q = M ∇m_q` as its columns of the tokens in `q`; a score adds up the columns' products with the
    training gradients at the same tokens. Memory: one column for each token of each query.

    Args:
        inverse: of the block, its right basis the identity.
    """

    def __init__(self, inverse: BlockInverse):
        super().__init__(inverse)
        assert inverse.basis.right is None
        self._columns: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._owners: list[Tensor] = []
        self._queries = 0
        self._sorted = False

    def absorb(self, queries: GradientForm) -> None:
        assert isinstance(queries, TokenOuterProducts)
        left = self.inverse.basis.left
        sums, tokens, owners = queries.rotated(left, None).per_token()
        columns = sums[0] * self.inverse.weights[0].index_select(1, tokens).T
        self._columns.append(columns if left is None else columns @ left[0].T)
        self._tokens.append(tokens)
        self._owners.append(owners + self._queries)
        self._queries += queries.b
        self._sorted = False

    def scores(self, train: GradientForm) -> Float[Tensor, "b q"]:
        assert isinstance(train, TokenOuterProducts)
        self._sort()
        columns, tokens, owners = self._columns[0], self._tokens[0], self._owners[0]
        sums, wanted, examples = train.per_token()
        # Query columns of one token follow each other: where they start, and how many there are.
        first = torch.searchsorted(tokens, wanted)
        count = torch.searchsorted(tokens, wanted, right=True) - first
        total = sums.new_zeros(train.b * self._queries)
        size = max(1, PIECE // (2 * columns.shape[1] * columns.element_size()))
        for part in _runs(count, size):
            own = torch.arange(part.start, part.stop, device=count.device).repeat_interleave(count[part])
            before = count[part].cumsum(0) - count[part]
            order = torch.arange(len(own), device=count.device) - before[own - part.start]
            column = first[own] + order
            products = (sums[0][own] * columns[column]).sum(1)
            total.index_add_(0, examples[own] * self._queries + owners[column], products)
        return total.reshape(train.b, self._queries)

    def _sort(self) -> None:
        if self._sorted:
            return
        columns, tokens, owners = (torch.cat(parts) for parts in (self._columns, self._tokens, self._owners))
        order = tokens.argsort(stable=True)
        self._columns, self._tokens, self._owners = [columns[order]], [tokens[order]], [owners[order]]
        self._sorted = True


def _runs(count: Tensor, size: int) -> list[slice]:
    """Runs of entries whose counts add up to about `size`, at least one entry each."""
    if len(count) == 0:
        return []
    number = count.cumsum(0) // size
    ends = (torch.nonzero(number[1:] != number[:-1])[:, 0] + 1).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], [*ends, len(count)])]
