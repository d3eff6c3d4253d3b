"""Ways to contract query and training gradients of one block through its inverse: each holds the queries'
side and takes training gradients batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.layers import GradientForm, OuterProducts
from wherefrom.linalg import HadamardExpansion

# Products of a piece of the training batch with all queries stay in cache.
PIECE = 4 * 2**20
# Examples, and single entries, that go together.
_RUN = 1024


class BlockScorer(ABC):
    """`g_tᵀ M g_q` of one block. `absorb` takes the queries in batches, `scores` the training examples."""

    def __init__(self, inverse: BlockInverse):
        self.inverse = inverse

    @abstractmethod
    def absorb(self, queries: GradientForm) -> None:
        """Add queries (one cotangent each)."""

    @abstractmethod
    def scores(self, train: GradientForm) -> Float[Tensor, "b q"]:
        """Scores of a batch of training examples (one cotangent each) for all queries."""


class ExplicitScorer(BlockScorer):
    """`X_q = M ∇m_q` as explicit matrices, then one matrix product per batch.

    Args:
        inverse: of the block.
        rotate_back: bring `X_q` back from the eigenbasis once, rather than rotating every training gradient.
    """

    def __init__(self, inverse: BlockInverse, *, rotate_back: bool):
        super().__init__(inverse)
        self._rotate_back = rotate_back
        self._parts: list[Tensor] = []

    def absorb(self, queries: GradientForm) -> None:
        basis = self.inverse.basis
        rotated = queries.rotated(basis.left, basis.right)
        matrices = rotated.rows()[0].reshape(-1, *rotated.shape) * self.inverse.weights
        self._parts.append(basis.rotate_back(matrices) if self._rotate_back else matrices)

    def scores(self, train: GradientForm) -> Float[Tensor, "b q"]:
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        basis = self.inverse.basis
        form = train if self._rotate_back else train.rotated(basis.left, basis.right)
        return form.inner(self._parts[0])[0]


class ProductScorer(BlockScorer):
    """Sums of products of two Gram matrices: `Σ_r (δ_tᵀ U_r δ_q)(a_tᵀ V_r a_q)`, and single entries beside
    them.

    Exact where the inverse is separable; otherwise as good as `expansion`. Gradients at several positions
    multiply out, so this pays for few positions only.

    Args:
        inverse: of the block.
        expansion: of its weights, one for each group; `None` takes `inverse.separable`.
        rotate_back: bring the queries' side back from the eigenbasis, rather than rotating every training
            gradient; not with single entries.
    """

    def __init__(
        self, inverse: BlockInverse, expansion: list[HadamardExpansion] | None, *, rotate_back: bool
    ):
        super().__init__(inverse)
        weights = inverse.weights
        if expansion is None:
            assert inverse.separable is not None
            left, right = (side[:, None] for side in inverse.separable)
            self._terms = [(left[group], right[group]) for group in range(left.shape[0])]
            self._entries: list[HadamardExpansion | None] = [None] * left.shape[0]
        else:
            cast = [one.to(dtype=weights.dtype, device=weights.device) for one in expansion]
            self._terms = [(one.left, one.right) for one in cast]
            self._entries = [one if one.entries else None for one in cast]
        self._rotate_back = rotate_back and not any(self._entries)
        self._lefts: list[list[Tensor]] = [[] for _ in self._terms]
        self._rights: list[list[Tensor]] = [[] for _ in self._terms]
        self._single: list[list[Tensor]] = [[] for _ in self._terms]
        # Which query each row belongs to: batches may be padded to different lengths.
        self._owners: list[Tensor] = []
        self._queries = 0

    def absorb(self, queries: GradientForm) -> None:
        assert isinstance(queries, OuterProducts)
        basis = self.inverse.basis
        rotated = queries.rotated(basis.left, basis.right)
        owners = torch.arange(self._queries, self._queries + rotated.b, device=rotated.gradients.device)
        self._owners.append(owners.repeat_interleave(rotated.positions))
        self._queries += rotated.b
        for group, (left, right) in enumerate(self._terms):
            deltas = rotated.gradients[0, :, :, group].reshape(-1, left.shape[1])
            activations = rotated.activations[:, :, group].reshape(-1, right.shape[1])
            entries = self._entries[group]
            if entries is not None:
                made = deltas.T[entries.rows] * activations.T[entries.columns] * entries.values[:, None]
                self._single[group].append(made)
            lefts, rights = left[:, None] * deltas, right[:, None] * activations  # (r, q·t, ·)
            if self._rotate_back:
                lefts = lefts if basis.left is None else lefts @ basis.left[group].T
                rights = rights if basis.right is None else rights @ basis.right[group].T
            self._lefts[group].append(lefts)
            self._rights[group].append(rights)

    def scores(self, train: GradientForm) -> Float[Tensor, "b q"]:
        assert isinstance(train, OuterProducts)
        self._join()
        basis = self.inverse.basis
        form = train if self._rotate_back else train.rotated(basis.left, basis.right)
        queries = self._lefts[0][0].shape[1]
        total = form.gradients.new_zeros(form.b, self._queries)
        for group, (lefts,) in enumerate(self._lefts):
            deltas = form.gradients[0, :, :, group]
            activations = form.activations[:, :, group]
            rank = len(lefts)
            size = max(16, PIECE // max(2 * rank * queries * form.positions * total.element_size(), 1))
            for start in range(0, form.b if rank else 0, size):
                part = slice(start, start + size)
                self._add_products(group, deltas[part], activations[part], total[part])
            if self._entries[group] is not None:
                for start in range(0, form.b, _RUN):
                    part = slice(start, start + _RUN)
                    self._add_entries(group, deltas[part], activations[part], total[part])
        return total

    def _join(self) -> None:
        if len(self._owners) > 1:
            self._owners[:] = [torch.cat(self._owners)]
        for parts in (*self._lefts, *self._rights):
            if len(parts) > 1:
                parts[:] = [torch.cat(parts, dim=1)]
        for parts in self._single:
            if len(parts) > 1:
                parts[:] = [torch.cat(parts, dim=1)]

    def _add_products(
        self,
        group: int,
        deltas: Float[Tensor, "b t o"],
        activations: Float[Tensor, "b t i"],
        total: Float[Tensor, "b q"],
    ) -> None:
        lefts, rights = self._lefts[group][0], self._rights[group][0]
        rank, queries = lefts.shape[:2]
        b, positions = deltas.shape[:2]
        outer = deltas.flatten(0, 1) @ lefts.reshape(rank * queries, -1).T
        outer *= activations.flatten(0, 1) @ rights.reshape(rank * queries, -1).T
        self._add_by_query(outer.reshape(b, positions, rank, queries).sum((1, 2)), total)

    def _add_entries(
        self,
        group: int,
        deltas: Float[Tensor, "b t o"],
        activations: Float[Tensor, "b t i"],
        total: Float[Tensor, "b q"],
    ) -> None:
        entries = self._entries[group]
        assert entries is not None
        b, positions = deltas.shape[:2]
        # Examples along the contiguous axis: picking an entry copies a whole run of them.
        lefts = deltas.flatten(0, 1).T.contiguous()
        rights = activations.flatten(0, 1).T.contiguous()
        queries = self._single[group][0]
        product = total.new_zeros(b * positions, queries.shape[1])
        for start in range(0, entries.entries, _RUN):
            part = slice(start, start + _RUN)
            made = lefts[entries.rows[part]]
            made *= rights[entries.columns[part]]
            product.addmm_(made.T, queries[part])
        self._add_by_query(product.reshape(b, positions, -1).sum(1), total)

    def _add_by_query(self, rows: Float[Tensor, "b rows"], total: Float[Tensor, "b q"]) -> None:
        """Add up the columns of each query's positions."""
        if rows.shape[1] == self._queries:  # one position each
            total += rows
        else:
            total.index_add_(1, self._owners[0], rows)
