"""Randomised Nyström approximation: a low-rank inverse, and a preconditioner."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.linalg import LinearOperator
from wherefrom.solvers.base import PreparedSolver
from wherefrom.solvers.floor import lacking
from wherefrom.solvers.low_rank import Directions, LowRankSolver, PreparedLowRank, SplitOperator
from wherefrom.solvers.preconditioner import InverseOperator
from wherefrom.solvers.repair import measured

# Eigenvalues of the sketch below minus this many units of rounding are no rounding.
_NEGATIVE = 1e3


class Nystrom(LowRankSolver):
    """`Â = (AΩ)(ΩᵀAΩ)⁺(AΩ)ᵀ` for the curvature `A` without damping and a random `Ω`, inverted with damping.

    Everything is computed in the form that is stable in the precision of the products: `A` is shifted by
    `ν ≈ eps ‖A‖`, and `ν` taken off the eigenvalues again. Where weight decay makes the diagonal `D` of the
    damped curvature vary, `D^{-1/2} A D^{-1/2} + I` is approximated instead.

    As a preconditioner (`CG(preconditioner=Nystrom())`) it is
    `U (θ_r + λ)(Θ + λ)⁻¹ Uᵀ + (I − UUᵀ)` up to scale, with `θ_r` the smallest eigenvalue kept: with a rank of
    at least twice the effective dimension `tr A(A + λI)⁻¹` the condition number is below a constant.

    Args:
        rank: columns of `Ω`, or `"auto"`; products spent to build it.
        discarded: with `"auto"`, share of the effective dimension that may be left outside.
        max_rank: with `"auto"`, the limit.

    Cost: `rank` products and `O(p · rank²)` operations once, `3 p · rank` numbers; then 3 products and
    `4 p · rank` operations a column.

    Source: Frangella, Tropp & Udell 2023, *Randomized Nyström preconditioning*, Algorithm 2.1 and §5; Tropp,
    Yurtsever, Udell & Cevher 2017.

    Raises:
        InputError: a setting out of range.
        UnsupportedError: (`prepare`) the curvature is not proven positive semi-definite apart from a positive
            damping.
    """

    name = "nystrom"

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        split = SplitOperator(operator)
        if not split.semidefinite or not split.shift:
            raise UnsupportedError(
                "Nyström needs a positive semi-definite curvature and damping or weight decay on every "
                f"parameter; found {lacking(operator)}. Use curvature='ggn' with damping > 0, or Arnoldi() "
                "for a Hessian."
            )
        return _PreparedNystrom(operator, self, seed)


class _PreparedNystrom(PreparedLowRank):
    name = "Nystrom"

    def __init__(self, operator: LinearOperator, settings: Nystrom, seed: int):
        super().__init__(operator, settings, seed)
        self._build(_Sketch(self._split, operator, seed), seed)

    def as_preconditioner(self) -> LinearOperator:
        smallest = float(self._values[-1])

        def apply(vectors: Tensor) -> Tensor:
            inside, outside = self._parts(vectors)
            return inside + outside / smallest

        return InverseOperator(apply, self.operator)


class _Sketch(Directions):
    """`Ω` and `AΩ`, with `A = C̃ − I`."""

    def __init__(self, operator: SplitOperator, original: LinearOperator, seed: int):
        self._operator, self._original, self._seed = operator, original, seed
        self._generator = torch.Generator().manual_seed(seed)
        self._test = torch.zeros(operator.size, 0, dtype=operator.dtype, device=operator.device)
        self._image = self._test.clone()

    def grow(self, rank: int) -> tuple[Float[Tensor, "p r"], Float[Tensor, " r"]]:
        p, more = self._operator.size, rank - self._test.shape[1]
        drawn = torch.randn(p, more, generator=self._generator, dtype=torch.float64)
        fresh = drawn.to(dtype=self._operator.dtype, device=self._operator.device)
        for _ in range(2):
            fresh = torch.linalg.qr(fresh - self._test @ (self._test.T @ fresh))[0]
        image = self._operator.matmat(fresh) - self._operator.shift * fresh
        self._test = torch.cat([self._test, fresh], dim=1)
        self._image = torch.cat([self._image, image], dim=1)
        return self._decompose()

    def _decompose(self) -> tuple[Float[Tensor, "p r"], Float[Tensor, " r"]]:
        eps = torch.finfo(self._image.dtype).eps
        # Frobenius instead of the spectral norm: cheaper, and larger by √r at the most.
        shift = math.sqrt(self._image.shape[0]) * eps * float(self._image.norm())
        shifted = self._image + shift * self._test
        core = (self._test.T @ shifted).double()
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        if float(values[0]) < -_NEGATIVE * shift:
            raise measured(self._original, 0.0, self._seed)
        roots = values.clamp(min=max(0.1 * shift, 1e-300)).sqrt()
        left, right = torch.linalg.qr(shifted @ (vectors / roots).to(shifted.dtype))
        turn, sizes, _ = torch.linalg.svd(right.double())
        kept = (sizes.square() - shift).clamp(min=0)
        return left @ turn.to(left.dtype), kept + self._operator.shift
