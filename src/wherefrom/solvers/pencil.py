"""Extreme eigenvalues of a preconditioned operator `M⁻¹C`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wherefrom.errors import InputError
from wherefrom.linalg import LinearOperator

_EXHAUSTED = 1e3


@dataclass(frozen=True)
class PencilSpectrum:
    """Extreme Ritz values of `M⁻¹C`, and how far an eigenvalue may be from the largest."""

    smallest: float
    largest: float
    largest_residual: float

    @property
    def largest_upper(self) -> float:
        """The largest Ritz value plus its residual: what a step size must respect."""
        return self.largest + self.largest_residual


def pencil_spectrum(
    operator: LinearOperator, inverse: LinearOperator, *, steps: int, seed: int
) -> PencilSpectrum:
    """Lanczos for `M^{-1/2} C M^{-1/2}` from products with `C` and `M⁻¹` only: vectors `q` with
    `qᵀM⁻¹q' = δ`, full reorthogonalisation.

    Cost: `steps` products with each, `2 p · steps` numbers.

    Source: Saad 2003, *Iterative Methods for Sparse Linear Systems*, §9.2.

    Raises:
        InputError: `inverse` has a direction of negative energy.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(operator.size, 1, generator=generator, dtype=torch.float64)
    left = drawn.to(dtype=operator.dtype, device=operator.device)
    lefts, rights = left[:, :0], left[:, :0]
    alpha: list[float] = []
    beta: list[float] = []
    for _ in range(min(steps, operator.size)):
        right = inverse.matmat(left)
        energy = float((left * right).double().sum())
        if energy < 0:
            raise InputError(
                "preconditioner: found a direction with negative energy; it must be positive definite"
            )
        size = energy**0.5
        scale = max(map(abs, alpha), default=0.0)
        if alpha and size <= _EXHAUSTED * torch.finfo(operator.dtype).eps * scale:
            break
        if alpha:
            beta.append(size)
        lefts = torch.cat([lefts, left / size], dim=1)
        rights = torch.cat([rights, right / size], dim=1)
        left = operator.matmat(rights[:, -1:])
        alpha.append(float((rights[:, -1:] * left).double().sum()))
        for _ in range(2):
            left = left - lefts @ (rights.T @ left)
    left_over = float((left * inverse.matmat(left)).double().sum().clamp(min=0)) ** 0.5
    off = torch.tensor(beta, dtype=torch.float64)
    matrix = torch.diag(torch.tensor(alpha, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return PencilSpectrum(float(values[0]), float(values[-1]), left_over * float(vectors[-1, -1].abs()))
