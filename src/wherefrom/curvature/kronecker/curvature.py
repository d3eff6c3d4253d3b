"""K-FAC, EK-FAC and diagonal curvature: per block a basis and eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.kronecker.basis import Basis
from wherefrom.layers import Block
from wherefrom.linalg import LinearOperator

# Columns that are rotated together.
_COLUMNS = 64


class KroneckerCurvature:
    """`C ≈ blockdiag(Q diag(Λ) Qᵀ)` with `Q = Q_B ⊗ Q_A` (row-major matrices).

    Attributes:
        method: `"ekfac"`, `"kfac"` or `"diagonal"`.
        blocks: their order is that of all lists here.
        bases: per block.
        eigenvalues: `Λ`, per block `(g, o, i)`.
        n: examples averaged.
        labels: where the gradients came from, in words.
    """

    def __init__(
        self,
        method: str,
        blocks: Sequence[Block],
        bases: Sequence[Basis],
        eigenvalues: Sequence[Tensor],
        n: int,
        labels: str,
    ):
        self.method = method
        self.blocks = list(blocks)
        self.bases = list(bases)
        self.eigenvalues = list(eigenvalues)
        self.n = n
        self.labels = labels

    def mean_eigenvalues(self) -> dict[str, float]:
        """Per block: trace over size."""
        return {
            block.name: float(values.double().mean()) for block, values in zip(self.blocks, self.eigenvalues)
        }

    def traces(self) -> dict[str, float]:
        """Per block; for EK-FAC and the diagonal, the trace of the block of `C` itself."""
        return {
            block.name: float(values.double().sum()) for block, values in zip(self.blocks, self.eigenvalues)
        }

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return max(float(values.max()) for values in self.eigenvalues)

    def operator(self) -> BlockSpectralOperator:
        """The approximation itself."""
        return BlockSpectralOperator(self.blocks, self.bases, self.eigenvalues)

    def damped_eigenvalues(self, damping: Mapping[str, float]) -> list[Tensor]:
        """`Λ + λ`, with one `λ` for each block."""
        return [values + damping[block.name] for block, values in zip(self.blocks, self.eigenvalues)]

    def inverse_weights(self, damping: Mapping[str, float]) -> list[Tensor]:
        """`1 / (Λ + λ)`."""
        return [1 / values for values in self.damped_eigenvalues(damping)]


class BlockSpectralOperator(LinearOperator):
    """`blockdiag(Q diag(w) Qᵀ)`: a Kronecker curvature or a function of one.

    Cost per column: `2 o i (o + i)` operations each way and block.
    """

    def __init__(self, blocks: Sequence[Block], bases: Sequence[Basis], weights: Sequence[Tensor]):
        first = weights[0]
        size = sum(block.size for block in blocks)
        smallest = min(float(values.min()) for values in weights)
        # The bases are orthogonal to rounding only.
        slack = 64 * torch.finfo(first.dtype).eps * max(float(values.max()) for values in weights)
        bound = smallest - slack if smallest > slack else min(smallest, 0.0) - slack
        super().__init__(size, first.dtype, first.device, bound if math.isfinite(bound) else -math.inf)
        self.blocks = list(blocks)
        self.bases = list(bases)
        self.weights = list(weights)

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        made = torch.empty_like(vectors, memory_format=torch.contiguous_format)
        for start in range(0, vectors.shape[1], _COLUMNS):
            columns = vectors[:, start : start + _COLUMNS]
            into = made[:, start : start + _COLUMNS] if vectors.shape[1] > _COLUMNS else made
            for block, basis, weights in zip(self.blocks, self.bases, self.weights):
                block.scatter(basis.rotate_back(basis.rotate(block.gather(columns)) * weights), into)
        return made
