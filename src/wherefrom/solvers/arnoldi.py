"""A low-rank inverse from the Krylov space of the curvature."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.linalg import LinearOperator
from wherefrom.solvers.base import PreparedSolver
from wherefrom.solvers.low_rank import Directions, LowRankSolver, PreparedLowRank
from wherefrom.solvers.repair import measured

# Directions of a block smaller than so many units of rounding have left the Krylov space.
_EXHAUSTED = 1e3


class Arnoldi(LowRankSolver):
    """Inverse on the Ritz vectors of a block Krylov space, one number on its complement.

    The curvature is symmetric, so that Arnoldi's iteration is Lanczos'; it runs on a random block of starts
    with full reorthogonalisation. Schioppa et al. keep the few Ritz pairs largest in magnitude and drop the
    complement; here every Ritz pair is kept (it has been paid for), the complement is given its mean
    eigenvalue, damping included, and every answer is improved by a product or two. Works for an indefinite
    Hessian whose damping makes it positive definite.

    Args:
        rank: dimension of the Krylov space, or `"auto"`; products spent to build it.
        discarded: with `"auto"`, share of the effective dimension that may be left outside.
        max_rank: with `"auto"`, the limit.
        block: random starts that run together; products of several columns cost less each, and eigenvalues
            that come several times are found.

    Cost: `rank` products and `O(p · rank²)` operations once, `p · rank` numbers; then 3 products and
    `4 p · rank` operations a column.

    Source: Schioppa, Zablotskaia, Vilar & Sokolov 2022, *Scaling up influence functions*; Saad 2011,
    *Numerical Methods for Large Eigenvalue Problems*, §6.

    Raises:
        InputError: a setting out of range.
        NotPositiveDefiniteError: a Ritz value is not positive.
    """

    name = "arnoldi"

    def __init__(
        self,
        rank: int | Literal["auto"] = "auto",
        discarded: float = 0.05,
        max_rank: int = 256,
        block: int = 8,
    ):
        super().__init__(rank, discarded, max_rank)
        self.block = whole("block", block, 1)

    def settings(self) -> dict[str, int | float | str]:
        return {**super().settings(), "block": self.block}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        return _PreparedArnoldi(operator, self, seed)


class _PreparedArnoldi(PreparedLowRank):
    name = "Arnoldi"

    def __init__(self, operator: LinearOperator, settings: Arnoldi, seed: int):
        super().__init__(operator, settings, seed)
        self._build(_Krylov(self._split, operator, settings.block, seed), seed)


class _Krylov(Directions):
    """Block Lanczos, kept so that it can go on."""

    def __init__(self, operator: LinearOperator, original: LinearOperator, block: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        width = min(block, operator.size)
        start = torch.randn(operator.size, width, generator=generator, dtype=torch.float64)
        start = start.to(dtype=operator.dtype, device=operator.device)
        self._operator, self._original, self._seed = operator, original, seed
        self._next = torch.linalg.qr(start)[0]
        self._basis = start[:, :0]
        self._images = torch.zeros(0, 0, dtype=torch.float64, device=operator.device)

    def grow(self, rank: int) -> tuple[Float[Tensor, "p r"], Float[Tensor, " r"]]:
        while self._basis.shape[1] < rank and self._next.shape[1]:
            self._step(self._next[:, : rank - self._basis.shape[1]])
        values, vectors = torch.linalg.eigh(self._images)
        if float(values[0]) <= 0:
            raise measured(self._original, 0.0, self._seed)
        return self._basis @ vectors.flip(1).to(self._basis.dtype), values.flip(0)

    def _step(self, block: Float[Tensor, "p b"]) -> None:
        """Add a block to the basis, and make the next from what its image has outside."""
        image = self._operator.matmat(block)
        old, new = self._basis.shape[1], block.shape[1]
        self._basis = torch.cat([self._basis, block], dim=1)
        coefficients = (self._basis.T @ image).double()
        grown = torch.zeros(old + new, old + new, dtype=torch.float64, device=image.device)
        grown[:old, :old] = self._images
        grown[:, old:] = coefficients
        grown[old:, :old] = coefficients[:old].T
        grown[old:, old:] = (coefficients[old:] + coefficients[old:].T) / 2
        self._images = grown
        for _ in range(2):  # twice is enough (Kahan–Parlett)
            image = image - self._basis @ (self._basis.T @ image)
        left, sizes, _ = torch.linalg.svd(image, full_matrices=False)
        floor = _EXHAUSTED * torch.finfo(image.dtype).eps * float(grown.abs().max())
        left = left[:, sizes > floor]
        self._next = torch.linalg.qr(left - self._basis @ (self._basis.T @ left))[0]
