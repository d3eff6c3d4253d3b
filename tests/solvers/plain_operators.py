"""Operators on plain matrices for the solver tests: spectra, a factor, an average over examples."""

from __future__ import annotations

import torch
from torch import Tensor

from wherefrom.linalg import FactoredOperator, LinearOperator


def orthogonal(p: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(p, p, generator=generator, dtype=torch.float64))[0]


def with_spectrum(values: Tensor | list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues in a random basis."""
    values = torch.as_tensor(values, dtype=torch.float64)
    basis = orthogonal(len(values), seed)
    matrix = basis @ torch.diag(values) @ basis.T
    return (matrix + matrix.T) / 2


def gaussian(p: int, k: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(p, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Gram(FactoredOperator):
    """`(1/n) Σ x_i x_iᵀ` for rows `x_i`: an average over examples with a factor `F = Xᵀ`."""

    def __init__(self, rows: Tensor):
        super().__init__(rows.shape[1], rows.dtype, rows.device, 0.0)
        self.rows = rows
        self.n_examples = rows.shape[0]
        self.rank = rows.shape[0]

    def matmat(self, vectors: Tensor) -> Tensor:
        return self.rows.T @ (self.rows @ vectors) / self.n_examples

    def sampled(self, indices: Tensor) -> LinearOperator:
        return Gram(self.rows[indices])

    def factor_apply(self, coefficients: Tensor) -> Tensor:
        return self.rows.T @ coefficients.to(self.dtype)

    def factor_adjoint(self, vectors: Tensor) -> Tensor:
        return self.rows @ vectors

    def factor_gram(self, scale: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        wide = self.rows.to(dtype)
        return (wide * scale.to(dtype)) @ wide.T


class Counting(LinearOperator):
    """Passes products on and counts the columns that were asked for."""

    def __init__(self, inner: LinearOperator):
        super().__init__(inner.size, inner.dtype, inner.device, inner.lower_bound)
        self.inner = inner
        self.columns = 0

    def matmat(self, vectors: Tensor) -> Tensor:
        self.columns += vectors.shape[1]
        return self.inner.matmat(vectors)
