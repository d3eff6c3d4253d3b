"""Queries whose solutions `X_q = M ∇m_q` are kept as few outer products each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.layers import GradientForm, OuterProducts
from wherefrom.solvers.contraction.scorers import PIECE, BlockScorer

# Directions in which gradients are smaller than this, relative to the largest, count as if they were so
# large.
_LEAST_SCALE = 1e-3


class LowRankQueryScorer(BlockScorer):
    """`X_q ≈ Σ_r l_r r_rᵀ`: a score is `Σ_t Σ_r (δ_t·l_r)(a_t·r_r)`, so that training gradients at several
    positions are never multiplied out.

    The error of a score `δᵀ (X − X̂) a` has the variance `‖B^½ (X − X̂) A^½‖²` for uncorrelated `δ` and `a`
    with second moments `B` and `A`: the leading singular vectors of `B^½ X A^½` are best in that norm. Every
    query has the rank it needs.

    Args:
        inverse: of the block.
        tolerance: the norm of what is left out, relative to that of the whole.

    Source: low-rank query gradients as in Grosse et al. 2023, §3.2.2, there without weights and at a given
    rank.
    """

    def __init__(self, inverse: BlockInverse, tolerance: float):
        super().__init__(inverse)
        self._tolerance = tolerance
        groups = inverse.block.shape[0]
        self._lefts: list[list[Tensor]] = [[] for _ in range(groups)]
        self._rights: list[list[Tensor]] = [[] for _ in range(groups)]
        self._owners: list[list[Tensor]] = [[] for _ in range(groups)]
        self._queries = 0

    @property
    def mean_rank(self) -> float:
        """Terms of a query, on average, in the group that has the most."""
        most = max(sum(len(owners) for owners in parts) for parts in self._owners)
        return most / max(self._queries, 1)

    def absorb(self, queries: GradientForm) -> None:
        basis = self.inverse.basis
        rotated = queries.rotated(basis.left, basis.right)
        matrices = rotated.rows()[0].reshape(-1, *rotated.shape) * self.inverse.weights
        for group in range(rotated.shape[0]):
            lefts, rights, owners = weighted_terms(
                matrices[:, group],
                _scale(basis.left_values[group]),
                _scale(basis.right_values[group]),
                self._tolerance,
            )
            lefts = lefts if basis.left is None else lefts @ basis.left[group].T
            rights = rights if basis.right is None else rights @ basis.right[group].T
            self._lefts[group].append(lefts)
            self._rights[group].append(rights)
            self._owners[group].append(owners + self._queries)
        self._queries += len(matrices)

    def scores(self, train: GradientForm) -> Float[Tensor, "b q"]:
        assert isinstance(train, OuterProducts)
        total = train.gradients.new_zeros(train.b, self._queries)
        for group in range(len(self._owners)):
            for parts in (self._lefts[group], self._rights[group], self._owners[group]):
                if len(parts) > 1:
                    parts[:] = [torch.cat(parts)]
            lefts, rights, owners = self._lefts[group][0], self._rights[group][0], self._owners[group][0]
            each = 2 * max(len(owners), 1) * train.positions * total.element_size()
            for start in range(0, train.b, max(1, PIECE // each)):
                part = slice(start, start + max(1, PIECE // each))
                products = train.gradients[0, part, :, group] @ lefts.T
                products *= train.activations[part, :, group] @ rights.T
                total[part].index_add_(1, owners, products.sum(1))
        return total


def weighted_terms(
    matrices: Float[Tensor, "q o i"],
    left_scale: Float[Tensor, " o"],
    right_scale: Float[Tensor, " i"],
    tolerance: float,
) -> tuple[Float[Tensor, "r o"], Float[Tensor, "r i"], Int[Tensor, " r"]]:
    """The fewest outer products `l rᵀ` of each matrix that leave out no more than `tolerance` of it, in the
    Frobenius norm of `diag(left_scale) X diag(right_scale)`.

    Returns:
        All `l`, all `r`, and the number of the matrix that each belongs to.
    """
    _, o, i = matrices.shape
    if o < i:
        rights, lefts, owners = weighted_terms(matrices.mT, right_scale, left_scale, tolerance)
        return lefts, rights, owners
    scaled = matrices.double() * left_scale[:, None] * right_scale
    # Squares lose half of the digits, of which float64 has enough.
    energy, vectors = torch.linalg.eigh(scaled.mT @ scaled)
    left_out = energy.clamp(min=0).cumsum(1)
    kept = left_out > tolerance**2 * left_out[:, -1:]
    owners, columns = kept.nonzero(as_tuple=True)
    most = int(kept.sum(1).max()) if len(kept) else 0
    vectors = vectors[:, :, i - most :]
    images = (scaled @ vectors)[owners, :, columns - (i - most)]
    vectors = vectors[owners, :, columns - (i - most)]
    return (images / left_scale).to(matrices.dtype), (vectors / right_scale).to(matrices.dtype), owners


def _scale(moments: Float[Tensor, " w"]) -> Float[Tensor, " w"]:
    """Root mean squares, none of them zero."""
    root = moments.double().clamp(min=0).sqrt()
    largest = root.max()
    return root.clamp(min=_LEAST_SCALE * float(largest)) if largest > 0 else torch.ones_like(root)
