"""Block conjugate gradients: all right-hand sides share one Krylov space."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.errors import InputError, NotPositiveDefiniteError
from wherefrom.linalg import LinearOperator, lanczos_spectrum
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.cg_errors import error_left
from wherefrom.solvers.cg_iteration import BlockIteration
from wherefrom.solvers.cg_stopping import ScoreWatch
from wherefrom.solvers.preconditioner import (
    check_preconditioner,
    preconditioner_settings,
    prepare_preconditioner,
)
from wherefrom.solvers.repair import measured
from wherefrom.solvers.solution import Solution, solution_from

Stop = Literal["residual", "scores"]
_RESTARTS = 3
# Iterations that measure the error where max_iterations stopped them: as many again, within these limits.
_LOOK_AHEAD, _MOST_LOOK_AHEAD = 10, 50
_MET = "Conjugate gradients met a direction of negative curvature. "


class CG(Solver):
    """Conjugate gradients on a block of right-hand sides, to a relative tolerance on the recomputed residual
    or until the scores have settled.

    Every product with `C_λ` serves all columns, so the iterations needed fall with the number of columns
    (O'Leary 1980). The form used orthonormalises the residuals (Dubrulle 2001, BCGrQ), which keeps it stable
    when columns are nearly dependent and gives the block Lanczos matrix, hence estimates of `λ_min` and
    `λ_max`, for free. A column that has converged is frozen.

    With a preconditioner `M⁻¹` the first iterate is the best combination of the preconditioner's own answers
    `M⁻¹V`: one product makes it at least as good, in the energy norm that CG minimises, as `M⁻¹v`, and
    later ones are best over a space that holds every iterate that a start from `x₀ = M⁻¹v` would reach with
    as many products. So the iteration starts from `M⁻¹v` without paying for its residual.

    Args:
        rtol: stop when `‖v − C_λ x‖ ≤ rtol ‖v‖` for every column, with the residual recomputed from `x`.
        max_iterations: block iterations; columns that need more are returned with `converged = False` and a
            reason. As many again (at least 10, at most 50) then measure the error that is left.
        block: columns solved together.
        preconditioner: a `Solver`, prepared on the same damped operator (`Nystrom()`, `EKFAC()`, …); an
            operator that approximates `C_λ⁻¹` and is positive definite; or `None`.
        stop: `"residual"`; or `"scores"`: a column is also done when the products of its `x` with the watched
            gradients (`PreparedSolver.watch`) have settled: their change over the last fifth of the
            iterations, and what is left of it when extrapolated, are within `score_rtol`, and the `top_k`
            largest and smallest are the same examples as before that stretch. Whichever rule comes first.
        score_rtol: relative to the norm of a column's watched scores.
        top_k: size of the sets that must be stable.

    Cost: one product with `C_λ` and with `M⁻¹` per column and iteration, `O(p · block²)` operations beside
    it, `5 p · block` numbers (`7 p · block` with `stop="scores"`).
    """

    name = "cg"

    def __init__(
        self,
        rtol: float = 1e-5,
        max_iterations: int = 1000,
        block: int = 64,
        preconditioner: LinearOperator | Solver | None = None,
        stop: Stop = "residual",
        score_rtol: float = 1e-3,
        top_k: int = 10,
    ):
        relative = "a relative tolerance between 0 and 1, e.g."
        number("rtol", rtol, above=0, below=1, expected=f"{relative} 1e-5")
        for name, value in (("max_iterations", max_iterations), ("block", block), ("top_k", top_k)):
            whole(name, value, 1)
        if stop not in ("residual", "scores"):
            raise InputError(f"stop={stop!r}: expected 'residual' or 'scores'")
        number("score_rtol", score_rtol, above=0, below=1, expected=f"{relative} 1e-3")
        check_preconditioner(preconditioner, required=False)
        self.rtol = rtol
        self.max_iterations = max_iterations
        self.block = block
        self.preconditioner = preconditioner
        self.stop = stop
        self.score_rtol = score_rtol
        self.top_k = top_k

    def without_damping(self, operator: LinearOperator) -> Literal["products", "guarded"]:
        return "guarded" if isinstance(self.preconditioner, Solver) else "products"

    def settings(self) -> dict[str, Any]:
        settings = {
            "solver": self.name,
            "rtol": self.rtol,
            "max_iterations": self.max_iterations,
            "block": self.block,
            "preconditioner": preconditioner_settings(self.preconditioner),
            "stop": self.stop,
        }
        if self.stop == "scores":
            settings.update(score_rtol=self.score_rtol, top_k=self.top_k)
        return settings

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        return _PreparedCG(operator, self, seed)


class _PreparedCG(PreparedSolver):
    name = "CG"

    def __init__(self, operator: LinearOperator, settings: CG, seed: int):
        proven = operator.lower_bound > 0
        super().__init__(operator.compact(), operator.lower_bound if proven else 0.0, proven)
        self.settings = settings
        self.follows_scores = settings.stop == "scores"
        self._seed = seed
        self._watched: Float[Tensor, "p m"] | None = None
        if not proven:
            # Nothing is proven of the eigenvalues: the bound is conditional on what a Lanczos run saw.
            spectrum = lanczos_spectrum(operator, seed=seed)
            if spectrum.smallest <= 0:
                raise self._not_positive(spectrum.smallest)
            self.lower_bound = spectrum.smallest_positive
            self.notes.update(smallest_ritz=spectrum.smallest, largest_ritz=spectrum.largest)
        preconditioner = settings.preconditioner
        # Prepared on the operator as given: the compact form has forgotten its examples.
        inverse = None if preconditioner is None else prepare_preconditioner(preconditioner, operator, seed)
        self._iteration = BlockIteration(self.operator, inverse, self._not_positive)
        self._stopped = {"scores": 0, "residual": 0, "neither": 0}

    def watch(self, gradients: Float[Tensor, "p m"]) -> None:
        if gradients.shape[0] != self.operator.size or gradients.shape[1] == 0:
            raise InputError(
                f"gradients has shape {tuple(gradients.shape)}; expected ({self.operator.size}, m) with at "
                "least one column"
            )
        self._watched = gradients.to(dtype=self.operator.dtype, device=self.operator.device)

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        if self.settings.stop == "scores" and self._watched is None:
            raise InputError(
                "stop='scores' needs gradients to watch: call watch(gradients) on the prepared solver first, "
                "or use stop='residual'"
            )
        parts = []
        with progress_bar("conjugate gradients", rhs.shape[1]) as bar:
            for columns in rhs.split(min(self.settings.block, rhs.shape[0]), dim=1):
                parts.append(self._solve_block(columns))
                bar.advance(columns.shape[1])
        self._note()
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
        # Of columns stopped by their scores: how fast these were settling.
        score_rate = torch.full_like(norms, torch.nan)
        energy_rate = torch.full_like(norms, torch.nan)
        missing: Float[Tensor, "p k"] | None = None
        iterations = torch.zeros(rhs.shape[1], dtype=torch.long)
        settled = torch.zeros(rhs.shape[1], dtype=torch.bool, device=rhs.device)
        residual = rhs
        for _ in range(_RESTARTS):
            active = ((residual.norm(dim=0) > target) & ~settled).nonzero()[:, 0]
            budget = self.settings.max_iterations - int(iterations.max())
            if not len(active) or budget <= 0:
                break
            watch = self._watch_from(x[:, active])
            further = min(max(_LOOK_AHEAD, self.settings.max_iterations), _MOST_LOOK_AHEAD)
            run = self._iteration.run(residual[:, active], target[active], budget, watch, look_ahead=further)
            earlier[:, active] = x[:, active] + run.earlier
            earlier_norm[active] = run.earlier_norm
            energy_rate[active] = run.energy_rate
            if run.missing is not None:
                missing = torch.zeros_like(rhs)
                missing[:, active] = run.missing
            if watch is not None:
                stopped = active[run.settled]
                settled[stopped] = True
                earlier[:, stopped] = x[:, stopped] + watch.earlier[:, run.settled]
                score_rate[stopped] = watch.rate[run.settled]
            x[:, active] += run.x
            iterations[active.cpu()] += run.iterations
            before, residual = residual, rhs - self.operator.matmat(x)
            if bool((residual[:, active].norm(dim=0) > 0.5 * before[:, active].norm(dim=0)).all()):
                break
        left = residual.norm(dim=0)
        accurate = left <= target
        converged = accurate | settled
        self._stopped["residual"] += int(accurate.sum())
        self._stopped["scores"] += int((settled & ~accurate).sum())
        self._stopped["neither"] += int((~converged).sum())
        rate = left / earlier_norm.clamp(min=torch.finfo(rhs.dtype).tiny)  # 0 for v = 0
        directions = error_left(
            self._iteration, x - earlier, residual, rate, score_rate, energy_rate, converged, missing
        )
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=converged.cpu(),
            reason="" if bool(converged.all()) else self._shortfall(left / norms, converged, iterations),
            iterations=iterations,
            error_directions=directions[None],
            residual=residual,
        )

    def _watch_from(self, start: Float[Tensor, "p k"]) -> ScoreWatch | None:
        if self.settings.stop != "scores" or self._watched is None:
            return None
        return ScoreWatch(self._watched, self.settings.score_rtol, self.settings.top_k, start)

    def _shortfall(
        self, relative: Float[Tensor, " k"], converged: Bool[Tensor, " k"], iterations: Int[Tensor, " k"]
    ) -> str:
        """Why some columns did not converge."""
        worst = float(relative[~converged].max())
        if int(iterations.max()) < self.settings.max_iterations:
            return (
                f"the residual stopped falling at {worst:.1e} of the right-hand side, the rounding of "
                f"{self.operator.dtype}: use dtype=torch.float64, more damping, or a looser rtol"
            )
        return (
            f"max_iterations={self.settings.max_iterations} reached at a relative residual of "
            f"{worst:.1e}: allow more, add damping, or use a preconditioner"
        )

    def _note(self) -> None:
        """Ritz values and the rules that stopped, for reports."""
        if self.settings.stop == "scores":
            self.notes["stopped_by"] = dict(self._stopped)
        if self._iteration.ritz is None:
            return
        smallest, largest = self._iteration.ritz
        if self.settings.preconditioner is not None:
            self.notes.update(preconditioned_smallest_ritz=smallest, preconditioned_largest_ritz=largest)
            return
        self.notes["smallest_ritz"] = min(smallest, self.notes.get("smallest_ritz", smallest))
        self.notes["largest_ritz"] = max(largest, self.notes.get("largest_ritz", largest))

    def _not_positive(self, quotient: float) -> NotPositiveDefiniteError:
        return measured(self.operator, quotient, self._seed, seen=_MET)
