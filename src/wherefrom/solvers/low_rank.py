"""`C_λ⁻¹` from a few dominant directions and one number for all the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.linalg import LinearOperator, split_diagonal
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import Solver
from wherefrom.solvers.fixed_inverse import FixedInverse
from wherefrom.solvers.floor import eigenvalue_floor
from wherefrom.solvers.repair import measured
from wherefrom.solvers.solution import Solution, solution_from

_FIRST_RANK = 16
_PROBES = 8
# Two directions of a column count as one when their energies are this close to dependent.
_DEPENDENT = 1e-12
_ROUNDING = 100


class LowRankSolver(Solver):
    """Settings shared by solvers that keep `rank` directions of the damped curvature.

    Args:
        rank: directions kept, or `"auto"`: doubled until at most `discarded` of the effective dimension
            `tr A(A + D)⁻¹` (`A` the curvature, `D` the damping) lies outside of them. That is the mean
            self-influence of gradients drawn from `A`, so it says what part of a typical score is left to
            the complement's one number; the trace of `A` alone would not: small damping lifts what is small.
        discarded: share of the effective dimension for `rank="auto"`.
        max_rank: limit of an automatic rank; reaching it is reported as not converged.
    """

    def __init__(self, rank: int | Literal["auto"] = "auto", discarded: float = 0.05, max_rank: int = 256):
        if not isinstance(rank, str) or rank != "auto":
            words = "a whole number of directions of at least 1, or 'auto'"
            rank = whole("rank", rank, 1, expected=words)
        words = "a share of the effective dimension between 0 and 1, e.g. 0.05"
        number("discarded", discarded, above=0, below=1, expected=words)
        max_rank = whole("max_rank", max_rank, 1)
        self.rank = rank
        self.discarded = discarded
        self.max_rank = max_rank

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"solver": self.name, "rank": self.rank}
        if self.rank == "auto":
            settings.update(discarded=self.discarded, max_rank=self.max_rank)
        return settings


class SplitOperator(LinearOperator):
    """`C̃ = D^{-1/2} C_λ D^{-1/2}`, with `D` the diagonal of damping and weight decay where it is positive
    everywhere: damping is the identity then, whatever parameters are decayed. `D = I` otherwise.

    Attributes:
        root: `D^{1/2}`.
        shift: the part of `C̃` that is the identity: 1, or 0 where `D` is not positive.
        semidefinite: whether `C̃ − shift · I` is proven to have no negative eigenvalue.
    """

    def __init__(self, operator: LinearOperator):
        super().__init__(operator.size, operator.dtype, operator.device)
        rest, diagonal = split_diagonal(operator)
        positive = bool((diagonal > 0).all())
        self.root = diagonal.sqrt() if positive else torch.ones_like(diagonal)
        self.shift = 1.0 if positive else 0.0
        self.semidefinite = sum(term.lower_bound for term in rest) >= 0
        self._operator = operator

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return self._operator.matmat(vectors / self.root[:, None]) / self.root[:, None]


class Directions(ABC):
    """A subspace that can grow."""

    @abstractmethod
    def grow(self, rank: int) -> tuple[Float[Tensor, "p r"], Float[Tensor, " r"]]:
        """Orthonormal `U` with `r ≤ rank` columns, and the eigenvalues that stand for `UᵀC̃U`, descending."""


class PreparedLowRank(FixedInverse):
    """`D^{-1/2} (U Θ⁻¹ Uᵀ + (I − UUᵀ)/c) D^{-1/2}`, improved for every column.

    `c` is the mean eigenvalue of `C̃` on the complement, `tr(C̃ (I − UUᵀ)) / (p − r)`, measured with random
    probes. Write the error in the energy norm for isotropic right-hand sides as
    `tr[(X − C̃⁻¹) C̃ (X − C̃⁻¹)] = tr(X²C̃) − 2 tr X + const`: it splits into a part of `Θ` and a part of `c`,
    and is smallest for `Θ = diag(UᵀC̃U)` and `1/c = (p − r) / tr(C̃ (I − UUᵀ))`. So no other pair of numbers is
    better on average; `c = damping` alone would overstate the complement.

    Gradients are not isotropic, though. For each column the two parts `x_U` and `x_⊥` are therefore weighted
    anew by the Galerkin condition, at the cost of one product each: the result has the smallest error in the
    energy norm over `a x_U + b x_⊥`, hence at most that of any choice of `c`. The same products give the
    residual. The error left is estimated by the best multiple of the low-rank inverse of it, less its share
    in the two parts: three products a column altogether.
    """

    def __init__(self, operator: LinearOperator, settings: LowRankSolver, seed: int):
        bound, proven = eigenvalue_floor(operator, seed)
        super().__init__(operator, bound, proven)
        self._settings = settings
        self._split = SplitOperator(operator)
        self._reason = ""

    def _build(self, directions: Directions, seed: int) -> None:
        """Grow `directions` to the rank asked for and measure the complement."""
        settings, p = self._settings, self.operator.size
        auto = settings.rank == "auto"
        limit = min(settings.max_rank if auto else int(settings.rank), p)
        rank = min(_FIRST_RANK, limit) if auto else limit
        with (
            progress_bar(f"{settings.name} directions", limit) as bar,
            memory_errors(f"collecting {limit} directions", "Lower rank= or max_rank=, or use solver=CG()."),
        ):
            while True:
                self._basis, self._values = directions.grow(rank)
                bar.advance(self._basis.shape[1])
                self._complement, share = self._measure(seed)
                exhausted = self._basis.shape[1] < rank
                if not auto or share <= settings.discarded or rank == limit or exhausted:
                    break
                rank = min(2 * rank, limit)
        if auto and share > settings.discarded and not exhausted and rank < p:
            self._reason = (
                f"{rank} directions leave {share:.0%} of the effective dimension outside, more than "
                f"discarded={settings.discarded:g}: raise max_rank, add damping, or use CG with this solver "
                "as its preconditioner"
            )
        self.notes = {
            "rank": self._basis.shape[1],
            "discarded": share,
            "complement_eigenvalue": self._complement,
            "smallest_kept_eigenvalue": float(self._values[-1]),
            "largest_kept_eigenvalue": float(self._values[0]),
            "units": "of the damping" if self._split.shift else "of the curvature",
        }

    def _measure(self, seed: int) -> tuple[float, float]:
        """Mean eigenvalue of `C̃` on the complement, and the share of the effective dimension there.

        With the mean `c` for every eigenvalue `θ` there, the sum of `(θ − 1)/θ`, which is concave, is at most
        overstated.
        """
        p, r = self._basis.shape
        shift = self._split.shift
        inside = float(((self._values - shift).abs() / self._values).sum())
        if r == p:
            return float(self._values.mean()), 0.0
        # Not the seed of the directions: probes must be independent of them.
        generator = torch.Generator().manual_seed(seed + 1_000_003)
        probes = torch.randn(p, _PROBES, generator=generator, dtype=torch.float64)
        outside = self._outside(probes.to(dtype=self.operator.dtype, device=self.operator.device))
        energy = (outside * self._split.matmat(outside)).double().sum()
        mean = float(energy / outside.double().square().sum())
        if mean <= 0:
            raise measured(self.operator, 0.0, seed)  # the mean is of the scaled operator
        left = abs(mean - shift) / mean * (p - r)
        return mean, left / max(left + inside, 1e-300)

    def _outside(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """`(I − UUᵀ) V`, twice to be orthogonal to working precision."""
        for _ in range(2):
            vectors = vectors - self._basis @ (self._basis.T @ vectors)
        return vectors

    def _parts(self, rhs: Float[Tensor, "p k"]) -> tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]]:
        """`D^{-1/2} U Θ⁻¹ Uᵀ D^{-1/2} v` and `D^{-1/2} (I − UUᵀ) D^{-1/2} v`."""
        root = self._split.root[:, None]
        scaled = rhs / root
        # What rounding leaves of a column that lies inside, or outside, is no direction.
        floor = _ROUNDING * torch.finfo(rhs.dtype).eps * scaled.norm(dim=0)
        coefficients, outside = self._basis.T @ scaled, self._outside(scaled)
        coefficients = coefficients * (coefficients.norm(dim=0) > floor)
        outside = outside * (outside.norm(dim=0) > floor)
        inside = self._basis @ (coefficients / self._values[:, None].to(rhs.dtype))
        return inside / root, outside / root

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        inside, outside = self._parts(rhs)
        return inside + outside / self._complement

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        k = rhs.shape[1]
        parts = torch.stack(self._parts(rhs))  # (2, p, k)
        images = self.operator.matmat(torch.cat(list(parts), dim=1))
        images = images.unflatten(1, (2, k)).movedim(1, 0)
        weights = _galerkin(self.operator, parts, images, rhs).to(rhs.dtype)
        x = (weights[:, None] * parts).sum(0)
        residual = rhs - (weights[:, None] * images).sum(0)
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=torch.full((k,), not self._reason),
            reason=self._reason,
            iterations=torch.ones(k, dtype=torch.long),
            error_directions=self._error(parts, images, residual)[None],
            residual=residual,
        )

    def _error(
        self, parts: Float[Tensor, "2 p k"], images: Float[Tensor, "2 p k"], residual: Float[Tensor, "p k"]
    ) -> Float[Tensor, "p k"]:
        """The best multiple of the low-rank inverse's answer to the residual, without what it has of the two
        parts in the energy norm, as the error has nothing of them. With it `vᵀE` would vanish for the column
        `v` itself, and a self-influence would seem to have no error."""
        direction = self._apply_inverse(residual)
        image = self.operator.matmat(direction)
        weights = _galerkin(self.operator, parts, images, image).to(image.dtype)
        direction = direction - (weights[:, None] * parts).sum(0)
        energy = (direction * (image - (weights[:, None] * images).sum(0))).double().sum(0)
        gain = (residual * direction).double().sum(0) / energy
        return direction * torch.where(energy > 0, gain, torch.zeros_like(gain)).to(direction.dtype)


def _galerkin(
    operator: LinearOperator,
    parts: Float[Tensor, "2 p k"],
    images: Float[Tensor, "2 p k"],
    rhs: Float[Tensor, "p k"],
) -> Float[Tensor, "2 k"]:
    """Per column, the weights `w` with `PᵀC P w = Pᵀv` for the two columns `P` (float64)."""
    gram = torch.einsum("apk,bpk->kab", parts.double(), images.double())
    gram = (gram + gram.mT) / 2
    inner = torch.einsum("apk,pk->ka", parts.double(), rhs.double())
    sizes = gram.diagonal(dim1=1, dim2=2)
    if bool((sizes < 0).any()):
        norms = parts.double().square().sum(1).T
        raise measured(operator, float((sizes / norms.clamp(min=1e-300)).min()), seed=0)
    # Unit energy, so that a part which is rounding (a column inside or outside U) is dropped for that alone.
    scale = torch.where(sizes > 0, sizes.clamp(min=1e-300).rsqrt(), torch.zeros_like(sizes))
    unit = scale[:, :, None] * gram * scale[:, None, :]
    inverse = torch.linalg.pinv(unit, hermitian=True, rtol=_DEPENDENT)
    return (scale * (inverse @ (scale * inner)[:, :, None])[:, :, 0]).T
