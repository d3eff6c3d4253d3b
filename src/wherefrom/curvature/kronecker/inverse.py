"""A block-diagonal inverse in Kronecker eigenbases: what is to stand between query and training gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wherefrom.curvature.kronecker.basis import Basis, identity_basis
from wherefrom.curvature.kronecker.curvature import BlockSpectralOperator, KroneckerCurvature
from wherefrom.layers import Block


@dataclass(frozen=True)
class BlockInverse:
    """`V ↦ Q_B ((Q_Bᵀ V Q_A) ⊙ w) Q_Aᵀ` on one block.

    Attributes:
        block: of parameters.
        basis: `Q_B` and `Q_A`.
        weights: `w = 1/(Λ + λ)`, shape `(g, o, i)`.
        eigenvalues: `Λ`, second moments of training gradients in the basis; `None` where unknown.
        damping: `λ`.
        separable: `(u (g, o), v (g, i))` if `w = u vᵀ` exactly: rank-one gradients then stay rank one.
    """

    block: Block
    basis: Basis
    weights: Tensor
    eigenvalues: Tensor | None
    damping: float
    separable: tuple[Tensor, Tensor] | None = None


def kronecker_inverses(curvature: KroneckerCurvature, damping: Mapping[str, float]) -> list[BlockInverse]:
    """`1/(Λ + λ)` per block, the damping added to each product of eigenvalues."""
    parts = zip(curvature.blocks, curvature.bases, curvature.eigenvalues, curvature.inverse_weights(damping))
    return [
        BlockInverse(block, basis, weights, values, damping[block.name])
        for block, basis, values, weights in parts
    ]


def factored_inverses(curvature: KroneckerCurvature, damping: Mapping[str, float]) -> list[BlockInverse]:
    """`(B + √λ/π)⁻¹ ⊗ (A + π√λ)⁻¹` with `π² = mean(A)/mean(B)`: the damping of K-FAC that keeps the inverse
    a Kronecker product (Martens & Grosse 2015, §6.3)."""
    made = []
    for block, basis, values in zip(curvature.blocks, curvature.bases, curvature.eigenvalues):
        amount = damping[block.name]
        left_mean = float(basis.left_values.double().mean())
        pi = (float(basis.right_values.double().mean()) / left_mean) ** 0.5 if left_mean > 0 else 1.0
        pi = min(max(pi, 1e-6), 1e6)  # one side without curvature must not swallow the other's damping
        left = 1 / (basis.left_values + amount**0.5 / pi)
        right = 1 / (basis.right_values + pi * amount**0.5)
        weights = left[:, :, None] * right[:, None, :]
        made.append(BlockInverse(block, basis, weights, values, amount, (left, right)))
    return made


def identity_inverses(blocks: list[Block], dtype: torch.dtype) -> list[BlockInverse]:
    """The identity: scores are inner products of gradients."""
    made = []
    for block in blocks:
        basis = identity_basis(block, dtype)
        weights = basis.kronecker_eigenvalues
        made.append(BlockInverse(block, basis, weights, None, 1.0, (basis.left_values, basis.right_values)))
    return made


def inverse_operator(inverses: list[BlockInverse]) -> BlockSpectralOperator:
    """The inverse on flat vectors."""
    return BlockSpectralOperator(
        [inverse.block for inverse in inverses],
        [inverse.basis for inverse in inverses],
        [inverse.weights for inverse in inverses],
    )
