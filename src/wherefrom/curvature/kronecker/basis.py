"""Eigenbases of the Kronecker factors, decomposed in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wherefrom.curvature.kronecker.moments import BlockMoments
from wherefrom.errors import NonFiniteError
from wherefrom.layers import Block


@dataclass(frozen=True)
class Basis:
    """Eigenvectors and eigenvalues of the two factors of a block; no vectors stand for the identity.

    Attributes:
        left, right: `Q_B (g, o, o)` and `Q_A (g, i, i)`, or `None`.
        left_values, right_values: eigenvalues of `B (g, o)` and `A (g, i)`, ones where nothing is known.
    """

    left: Tensor | None
    right: Tensor | None
    left_values: Tensor
    right_values: Tensor

    def rotate(self, matrices: Tensor) -> Tensor:
        """`Q_Bᵀ V Q_A` for `(k, g, o, i)`."""
        if self.left is not None:
            matrices = torch.matmul(self.left.transpose(1, 2), matrices)
        if self.right is not None:
            matrices = torch.matmul(matrices, self.right)
        return matrices

    def rotate_back(self, matrices: Tensor) -> Tensor:
        """`Q_B V Q_Aᵀ`."""
        if self.left is not None:
            matrices = torch.matmul(self.left, matrices)
        if self.right is not None:
            matrices = torch.matmul(matrices, self.right.transpose(1, 2))
        return matrices

    @property
    def kronecker_eigenvalues(self) -> Tensor:
        """`λ_B λ_A`, shape `(g, o, i)`: what K-FAC takes for the eigenvalues of the block."""
        return self.left_values[:, :, None] * self.right_values[:, None, :]


def identity_basis(block: Block, dtype: torch.dtype) -> Basis:
    """No rotation: the basis of a diagonal approximation."""
    g, o, i = block.shape
    device = block.index.device
    return Basis(
        None,
        None,
        torch.ones(g, o, dtype=dtype, device=device),
        torch.ones(g, i, dtype=dtype, device=device),
    )


def eigenbasis(block: Block, moments: BlockMoments, n: int, dtype: torch.dtype) -> Basis:
    """The basis of `A = Σ a aᵀ / positions` and `B = Σ δ δᵀ / n`.

    Raises:
        NonFiniteError: a factor holds NaN or infinity.
    """
    own = identity_basis(block, dtype)
    left, left_values = own.left, own.left_values
    right, right_values = own.right, own.right_values
    positions = max(moments.positions, 1.0)
    for side in (moments.activations, moments.gradients):
        if side is not None and not bool(torch.isfinite(side).all()):
            raise NonFiniteError(
                f"block {block.name!r}: its Kronecker factors hold NaN or infinity; a gradient or activation "
                "overflows at the trained parameters. Use dtype=torch.float64 or leave the layer out."
            )
    if moments.gradients is not None:
        left, left_values = _decompose(moments.gradients / max(n, 1), dtype)
    if moments.activations is not None:
        scaled = moments.activations / positions
        if block.kind == "tokens":
            right_values = scaled[None].to(dtype)
        elif block.shape[2] > 1:
            right, right_values = _decompose(scaled, dtype)
        else:
            right_values = scaled[:, :, 0].to(dtype)
    return Basis(left, right, left_values, right_values)


def basis_tensors(blocks: Sequence[Block], bases: Sequence[Basis]) -> dict[str, Tensor]:
    """What a file keeps of the bases of all blocks."""
    return {
        f"{block.name}:{side}": value
        for block, basis in zip(blocks, bases)
        for side, value in vars(basis).items()
        if value is not None
    }


def bases_of(blocks: Sequence[Block], tensors: Mapping[str, Tensor]) -> list[Basis]:
    """Inverse of `basis_tensors`.

    Raises:
        KeyError: a block is missing.
    """
    return [
        Basis(
            tensors.get(f"{block.name}:left"),
            tensors.get(f"{block.name}:right"),
            tensors[f"{block.name}:left_values"],
            tensors[f"{block.name}:right_values"],
        )
        for block in blocks
    ]


def bases_fingerprint(blocks: Sequence[Block], bases: Sequence[Basis]) -> str:
    """SHA-256 of names and content."""
    digest = hashlib.sha256()
    for name, value in basis_tensors(blocks, bases).items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _decompose(factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((factor + factor.transpose(1, 2)) / 2)
    return vectors.to(dtype).contiguous(), values.clamp(min=0).to(dtype)
