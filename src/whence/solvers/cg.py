"""Block conjugate gradients: all right-hand sides share one Krylov space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whence.errors import InputError, NotPositiveDefiniteError
from whence.linalg import LinearOperator, lanczos_spectrum
from whence.progress import progress_bar
from whence.solvers.base import PreparedSolver, Solution, Solver, solution_from

# The estimate of the error compares the result with the last iterate whose residual was this much larger.
_LOOK_BACK = 3.0
_RESTARTS = 3
# A residual that fell by more than this since the earlier iterate gives no rate; the error is then solved
# for, this loosely.
_SUDDEN = 1e-3
_LOOSE = 0.1
_LOOSE_ITERATIONS = 30
# Columns less independent than this are left to Householder's QR: CholeskyQR2 is stable up to a condition of
# about eps^(-1/2).
_SAFE_SPREAD = 1e-2


class CG(Solver):
    """Conjugate gradients on a block of right-hand sides, to a relative tolerance on the recomputed residual.

    Every product with `C_λ` serves all columns, so the iterations needed fall with the number of columns
    (O'Leary 1980). The form used orthonormalises the residuals (Dubrulle 2001, BCGrQ), which keeps it stable
    when columns are nearly dependent and gives the block Lanczos matrix, hence estimates of `λ_min` and
    `λ_max`, for free. A column that has converged is frozen.

    Args:
        rtol: stop when `‖v − C_λ x‖ ≤ rtol ‖v‖` for every column, with the residual recomputed from `x`.
        max_iterations: block iterations; columns that need more are returned with `converged = False` and a
            reason.
        block: columns solved together.
        preconditioner: an operator that approximates `C_λ⁻¹` and is positive definite, or `None`.

    Cost: one product with `C_λ` per column and iteration, `O(p · block²)` operations beside it, `5 p · block`
    numbers.
    """

    name = "cg"

    def __init__(
        self,
        rtol: float = 1e-5,
        max_iterations: int = 1000,
        block: int = 64,
        preconditioner: LinearOperator | None = None,
    ):
        if not 0 < rtol < 1:
            raise InputError(f"rtol={rtol!r}: expected a relative tolerance between 0 and 1, e.g. 1e-5")
        if max_iterations < 1 or block < 1:
            raise InputError(f"max_iterations={max_iterations!r}, block={block!r}: both must be at least 1")
        self.rtol = rtol
        self.max_iterations = max_iterations
        self.block = block
        self.preconditioner = preconditioner

    def settings(self) -> dict[str, Any]:
        named = None if self.preconditioner is None else type(self.preconditioner).__name__
        return {
            "solver": self.name,
            "rtol": self.rtol,
            "max_iterations": self.max_iterations,
            "block": self.block,
            "preconditioner": named,
        }

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        return _PreparedCG(operator, self, seed)


class _PreparedCG(PreparedSolver):
    def __init__(self, operator: LinearOperator, settings: CG, seed: int):
        proven = operator.lower_bound > 0
        super().__init__(operator.compact(), operator.lower_bound if proven else 0.0, proven)
        self.settings = settings
        self._seed = seed
        # The first block's Ritz values are as good as any later one's.
        self._ritz_known = False
        if not proven:
            # Nothing is proven of the eigenvalues: the bound is conditional on what a Lanczos run saw.
            spectrum = lanczos_spectrum(operator, seed=seed)
            if spectrum.smallest <= 0:
                raise self._not_positive(spectrum.smallest)
            self.lower_bound = spectrum.smallest_positive
            self.notes.update(smallest_ritz=spectrum.smallest, largest_ritz=spectrum.largest)

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        parts = []
        with progress_bar("conjugate gradients", rhs.shape[1]) as bar:
            for columns in rhs.split(min(self.settings.block, rhs.shape[0]), dim=1):
                parts.append(self._solve_block(columns))
                bar.advance(columns.shape[1])
        if len(parts) == 1:
            return parts[0]
        return Solution(
            x=torch.cat([part.x for part in parts], dim=1),
            converged=torch.cat([part.converged for part in parts]),
            reason=" ".join(sorted({part.reason for part in parts if part.reason})),
            iterations=torch.cat([part.iterations for part in parts]),
            residual_norm=torch.cat([part.residual_norm for part in parts]),
            rhs_norm=torch.cat([part.rhs_norm for part in parts]),
            error_directions=torch.cat([part.error_directions for part in parts], dim=2),
        )

    def _solve_block(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """Block iterations, restarted from the true residual when rounding made the recurrence optimistic."""
        norms = rhs.norm(dim=0)
        target = self.settings.rtol * norms
        x = torch.zeros_like(rhs)
        earlier = torch.zeros_like(rhs)
        earlier_norm = norms.clone()
        iterations = torch.zeros(rhs.shape[1], dtype=torch.long)
        residual = rhs
        reason = ""
        for _ in range(_RESTARTS):
            active = (residual.norm(dim=0) > target).nonzero()[:, 0]
            budget = self.settings.max_iterations - int(iterations.max())
            if not len(active) or budget <= 0:
                break
            run = self._iterate(residual[:, active], target[active], budget)
            earlier[:, active] = x[:, active] + run.earlier
            earlier_norm[active] = run.earlier_norm
            x[:, active] += run.x
            iterations[active.cpu()] += run.iterations
            before, residual = residual, rhs - self.operator.matmat(x)
            if bool((residual[:, active].norm(dim=0) > 0.5 * before[:, active].norm(dim=0)).all()):
                break
        left = residual.norm(dim=0)
        converged = left <= target
        if not bool(converged.all()):
            stuck = int(iterations.max()) < self.settings.max_iterations
            worst = float((left / norms)[~converged].max())
            reason = (
                f"the residual stopped falling at {worst:.1e} of the right-hand side, the rounding of "
                f"{rhs.dtype}: use dtype=torch.float64, more damping, or a looser rtol"
                if stuck
                else f"max_iterations={self.settings.max_iterations} reached at a relative residual of "
                f"{worst:.1e}: allow more, add damping, or use a preconditioner"
            )
        rate = left / earlier_norm.clamp(min=torch.finfo(rhs.dtype).tiny)  # 0 for v = 0
        directions = self._error_directions(x - earlier, residual, rate)
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=converged.cpu(),
            reason=reason,
            iterations=iterations,
            error_directions=directions[None],
            residual=residual,
        )

    def _error_directions(
        self, change: Float[Tensor, "p k"], residual: Float[Tensor, "p k"], rate: Float[Tensor, " k"]
    ) -> Float[Tensor, "p k"]:
        """The error left, estimated from the `change` of the last stretch, over which the residual fell by
        `rate`.

        If errors fall like residuals, the change is `1/rate − 1` times what is left. A fall of many orders in
        one step (the Krylov space ran out) says nothing of that kind: `C_λ e = r` is then solved loosely.
        """
        steady = rate.clamp(max=0.9)
        directions = change * (steady / (1 - steady))
        sudden = ((rate < _SUDDEN) & (residual.norm(dim=0) > 0)).nonzero()[:, 0]
        if len(sudden):
            left = residual[:, sudden]
            directions[:, sudden] = self._iterate(left, _LOOSE * left.norm(dim=0), _LOOSE_ITERATIONS).x
        return directions

    def _iterate(self, rhs: Float[Tensor, "p k"], target: Float[Tensor, " k"], budget: int) -> _Run:
        """BCGrQ from `x = 0`; residuals are `Q C` with orthonormal `Q`, so their norms cost nothing of size
        `p`."""
        k = rhs.shape[1]
        x, earlier = torch.zeros_like(rhs), torch.zeros_like(rhs)
        earlier_norm = rhs.norm(dim=0)
        iterations = torch.zeros(k, dtype=torch.long)
        active = torch.ones(k, dtype=torch.bool, device=rhs.device)
        basis, preconditioned, coefficients = self._orthonormalise(rhs)
        search = preconditioned
        ritz = _BlockLanczos()
        for _ in range(budget):
            image = self.operator.matmat(search)
            curvature = (search.T @ image).double()
            curvature = (curvature + curvature.T) / 2
            step = self._inverse(curvature, search)
            change = (step @ coefficients).to(rhs.dtype)
            x += search @ torch.where(active, change, torch.zeros_like(change))
            iterations += active.cpu().long()
            basis, preconditioned, factor = self._orthonormalise(basis - image @ step.to(rhs.dtype))
            ritz.add(curvature, factor)
            coefficients = factor @ coefficients
            norms = self._residual_norms(basis, coefficients).to(rhs.dtype)
            far = active & (norms > _LOOK_BACK * target)
            earlier = torch.where(far, x, earlier)
            earlier_norm = torch.where(far, norms, earlier_norm)
            active = active & (norms > target)
            if not bool(active.any()):
                break
            search = preconditioned + search @ factor.T.to(rhs.dtype)
        if self.settings.preconditioner is None and not self._ritz_known:
            self._ritz_known = True
            smallest, largest = ritz.extremes()
            self.notes["smallest_ritz"] = min(smallest, self.notes.get("smallest_ritz", smallest))
            self.notes["largest_ritz"] = max(largest, self.notes.get("largest_ritz", largest))
        return _Run(x, earlier, earlier_norm, iterations)

    def _orthonormalise(self, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`block = Q R` with `QᵀM⁻¹Q = I`: returns `Q`, `M⁻¹Q` and `R` (float64)."""
        if self.settings.preconditioner is None:
            q, r = _thin_qr(block)
            return q, q, r
        # Two passes of a symmetric square root instead of Cholesky: nearly dependent columns do no harm.
        total = torch.eye(block.shape[1], dtype=torch.float64, device=block.device)
        for _ in range(2):
            image = self.settings.preconditioner.matmat(block)
            gram = (block.T @ image).double()
            values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
            floor = values[-1].clamp(min=1e-300) * torch.finfo(block.dtype).eps
            if float(values[0]) < -100 * float(floor):
                raise InputError(
                    "preconditioner: found a direction with negative energy; it must be positive definite"
                )
            roots = values.clamp(min=float(floor)).sqrt()
            inverse = (vectors / roots).to(block.dtype)
            block = block @ inverse
            total = (vectors * roots).T @ total
        return block, self.settings.preconditioner.matmat(block), total

    def _residual_norms(self, basis: Tensor, coefficients: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
        if self.settings.preconditioner is None:
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

    def _not_positive(self, seen: float) -> NotPositiveDefiniteError:
        spectrum = lanczos_spectrum(self.operator, steps=40, seed=self._seed)
        smallest = min(seen, spectrum.smallest_lower)
        repair = -smallest * 1.1
        return NotPositiveDefiniteError(
            f"conjugate gradients met a direction of negative curvature ({seen:.4g}): C_λ is not positive "
            f"definite, so the model is not at a minimum of this objective. Add about damping={repair:.3g} "
            "to "
            "what is set now, use curvature='ggn', or train to convergence.",
            eigenvalue=smallest,
            damping=repair,
        )


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


@dataclass(frozen=True)
class _Run:
    x: Float[Tensor, "p k"]
    earlier: Float[Tensor, "p k"]
    earlier_norm: Float[Tensor, " k"]
    iterations: Tensor


class _BlockLanczos:
    """The block tridiagonal matrix that block CG computes in passing; its eigenvalues are Ritz values of
    `C_λ`."""

    def __init__(self) -> None:
        self._diagonal: list[Tensor] = []
        self._below: list[Tensor] = []
        self._carry: Tensor | None = None

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
