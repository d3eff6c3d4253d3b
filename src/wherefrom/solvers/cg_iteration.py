"""The recurrence of block conjugate gradients, with or without a preconditioner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.linalg import LinearOperator
from wherefrom.solvers.cg_energy import EnergyLog, LookAhead
from wherefrom.solvers.cg_stopping import ScoreWatch

# The estimate of the error compares the result with the last iterate whose residual was this much larger.
_LOOK_BACK = 3.0
# Columns less independent than this are left to Householder's QR: CholeskyQR2 is stable up to a condition of
# about eps^(-1/2).
_SAFE_SPREAD = 1e-2
# With a preconditioner: a Gram matrix whose eigenvalues spread less than this needs no second turn; what is
# below so many units of rounding is lost; and turns at the most (one or two, unless columns are dependent).
_SAFE_GRAM = 1e-2
_LOST = 100
_MOST_TURNS = 8


@dataclass(frozen=True)
class Run:
    """A stretch of iterations from zero.

    Attributes:
        x: the result.
        earlier, earlier_norm: the last iterate whose residual was three times the target, and its residual.
        energy_rate: per column, how the squared error fell from the stretch before `earlier` to the stretch
            after it, in the energy norm; NaN where there was no such stretch.
        iterations: per column.
        settled: columns stopped by their scores.
        missing: what the iterations after the budget add to columns that were not done by then.
    """

    x: Float[Tensor, "p k"]
    earlier: Float[Tensor, "p k"]
    earlier_norm: Float[Tensor, " k"]
    energy_rate: Float[Tensor, " k"]
    iterations: Int[Tensor, " k"]
    settled: Bool[Tensor, " k"]
    missing: Float[Tensor, "p k"] | None


class BlockIteration:
    """BCGrQ (Dubrulle 2001): residuals are `Q C` with orthonormal `Q`, so their norms cost nothing of size
    `p`.

    Args:
        operator: `C_λ`.
        preconditioner: `M⁻¹`, or `None`. `QᵀM⁻¹Q = I` then; applied once per iteration.
        not_positive: makes the exception for a direction of this Rayleigh quotient.
    """

    def __init__(
        self,
        operator: LinearOperator,
        preconditioner: LinearOperator | None,
        not_positive: Callable[[float], Exception],
    ):
        self._operator = operator
        self._preconditioner = preconditioner
        self._not_positive = not_positive
        # Smallest and largest Ritz value of C_λ (of M⁻¹C_λ with a preconditioner) of the first run: as good
        # as any later one's.
        self.ritz: tuple[float, float] | None = None

    def run(
        self,
        rhs: Float[Tensor, "p k"],
        target: Float[Tensor, " k"],
        budget: int,
        watch: ScoreWatch | None = None,
        *,
        look_ahead: int = 0,
    ) -> Run:
        """Iterate from `x = 0` until every residual is below its `target`, `watch` calls its scores settled,
        or `budget` iterations are done; then up to `look_ahead` more, which do not change `x`, to see what
        the columns that are not done lack."""
        k = rhs.shape[1]
        x, earlier = torch.zeros_like(rhs), torch.zeros_like(rhs)
        earlier_norm = rhs.norm(dim=0)
        iterations = torch.zeros(k, dtype=torch.long)
        active = torch.ones(k, dtype=torch.bool, device=rhs.device)
        settled = torch.zeros_like(active)
        basis, preconditioned, coefficients = self._orthonormalise(rhs)
        search = preconditioned
        ritz = _BlockLanczos()
        energy = EnergyLog(k)
        ahead: LookAhead | None = None
        for iteration in range(1, budget + look_ahead + 1):
            image = self._operator.matmat(search)
            curvature = (search.T @ image).double()
            curvature = (curvature + curvature.T) / 2
            if not bool(torch.isfinite(curvature).all()):
                break  # beyond the range of the dtype: what was reached before stands
            step = self._inverse(curvature, search)
            change = step @ coefficients
            gained = (coefficients * change).sum(0)
            moved = search @ torch.where(active, change, torch.zeros_like(change)).to(rhs.dtype)
            if ahead is None:
                x += moved
                iterations += active.cpu().long()
                energy.add(gained, active)
            else:
                ahead.add(moved, gained)
            basis, preconditioned, factor = self._orthonormalise(basis - image @ step.to(rhs.dtype))
            ritz.add(curvature, factor)
            coefficients = factor @ coefficients
            norms = self._residual_norms(basis, coefficients).to(rhs.dtype)
            if ahead is not None:
                if ahead.seen(norms):
                    break
                search = preconditioned + search @ factor.T.to(rhs.dtype)
                continue
            far = active & (norms > _LOOK_BACK * target)
            earlier = torch.where(far, x, earlier)
            earlier_norm = torch.where(far, norms, earlier_norm)
            energy.mark(far)
            active = active & (norms > target)
            if watch is not None:
                now = watch.settled(x, iteration, active)
                settled, active = settled | now, active & ~now
            if not bool(active.any()):
                break
            if iteration == budget:
                ahead = LookAhead(rhs, norms, active)
            search = preconditioned + search @ factor.T.to(rhs.dtype)
        if self.ritz is None and ritz.steps:
            self.ritz = ritz.extremes()
        missing = None if ahead is None else ahead.missing()
        return Run(x, earlier, earlier_norm, energy.rate().to(rhs), iterations, settled, missing)

    def _orthonormalise(self, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`block = Q R` with `QᵀM⁻¹Q = I`: returns `Q`, `M⁻¹Q` and `R` (float64)."""
        if self._preconditioner is None:
            q, r = _thin_qr(block)
            return q, q, r
        # A symmetric square root instead of Cholesky: nearly dependent columns do no harm. M⁻¹ is linear, so
        # its image is turned with the block, and made anew only where that loses digits.
        eps = torch.finfo(block.dtype).eps
        total = torch.eye(block.shape[1], dtype=torch.float64, device=block.device)
        image = self._preconditioner.matmat(block)
        for turn in range(_MOST_TURNS):
            gram = (block.T @ image).double()
            values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
            largest = float(values[-1].clamp(min=1e-300))
            if float(values[0]) < -100 * eps * largest:
                raise InputError(
                    "preconditioner: found a direction with negative energy; it must be positive definite"
                )
            roots = values.clamp(min=eps * largest).sqrt()
            inverse = (vectors / roots).to(block.dtype)
            block, image = block @ inverse, image @ inverse
            total = (vectors * roots).T @ total
            if float(values[0]) > _SAFE_GRAM * largest:
                break
            lost = values <= _LOST * eps * largest
            if turn > 1 and bool(lost.any()):
                # What two turns could not lift is rounding: any other direction serves in its place.
                block[:, lost] = self._fresh(int(lost.sum()))
                total[lost] = 0
            if float(values[0]) < math.sqrt(eps) * largest:
                image = self._preconditioner.matmat(block)
        return block, image, total

    def _fresh(self, count: int) -> Tensor:
        """Random directions."""
        operator = self._operator
        generator = torch.Generator().manual_seed(count)
        drawn = torch.randn(operator.size, count, generator=generator, dtype=torch.float64)
        return drawn.to(dtype=operator.dtype, device=operator.device) / math.sqrt(operator.size)

    def _residual_norms(self, basis: Tensor, coefficients: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
        if self._preconditioner is None:
            return coefficients.norm(dim=0)
        return (basis @ coefficients.to(basis.dtype)).norm(dim=0)

    def _inverse(self, curvature: Float[Tensor, "k k"], search: Tensor) -> Float[Tensor, "k k"]:
        values, vectors = torch.linalg.eigh(curvature)
        rounding = 10 * curvature.shape[0] * torch.finfo(search.dtype).eps * float(values[-1].abs())
        if float(values[0]) < -rounding:
            direction = search @ vectors[:, 0].to(search.dtype)
            raise self._not_positive(float(values[0]) / float(direction.double().square().sum()))
        # Directions whose energy is rounding carry no information; they are left out, not divided by.
        keep = values > rounding
        inverse = torch.where(keep, 1 / values.clamp(min=1e-300), torch.zeros_like(values))
        return (vectors * inverse) @ vectors.T


def _thin_qr(block: Float[Tensor, "p k"]) -> tuple[Float[Tensor, "p k"], Float[Tensor, "k k"]]:
    """`Q` and `R` (float64) by two Cholesky passes, a third of the time of Householder's; that where columns
    are nearly dependent."""
    q, total = block, torch.eye(block.shape[1], dtype=torch.float64, device=block.device)
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex((q.T @ q).double())
        spread = factor.diagonal()
        if int(failed) != 0 or float(spread.min()) < _SAFE_SPREAD * float(spread.max()):
            q, r = torch.linalg.qr(block)
            return q, r.double()
        q = q @ torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).T.to(
            q.dtype
        )
        total = factor.T @ total
    return q, total


class _BlockLanczos:
    """The block tridiagonal matrix that block CG computes in passing; its eigenvalues are Ritz values of
    `C_λ`."""

    def __init__(self) -> None:
        self._diagonal: list[Tensor] = []
        self._below: list[Tensor] = []
        self._carry: Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self._diagonal)

    def add(self, curvature: Float[Tensor, "k k"], factor: Float[Tensor, "k k"]) -> None:
        """One step: `PᵀCP` and the triangular factor `S` of the new residual block."""
        self._diagonal.append(curvature if self._carry is None else curvature + self._carry)
        self._below.append(-factor @ curvature)
        self._carry = factor @ curvature @ factor.T

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest Ritz value."""
        k = self._diagonal[0].shape[0]
        steps = min(len(self._diagonal), max(2, 600 // k))
        matrix = torch.zeros(steps * k, steps * k, dtype=torch.float64)
        for i in range(steps):
            matrix[i * k : (i + 1) * k, i * k : (i + 1) * k] = self._diagonal[i]
            if i + 1 < steps:
                below = self._below[i]
                matrix[(i + 1) * k : (i + 2) * k, i * k : (i + 1) * k] = below
                matrix[i * k : (i + 1) * k, (i + 1) * k : (i + 2) * k] = below.T
        values = torch.linalg.eigvalsh(matrix)
        return float(values[0]), float(values[-1])
