"""Preconditioned steps on mini-batch curvature, where passes over all examples cost too much."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.errors import DivergenceError, InputError, NotPositiveDefiniteError
from wherefrom.linalg import LinearOperator
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.cg_iteration import BlockIteration
from wherefrom.solvers.floor import eigenvalue_floor
from wherefrom.solvers.pencil import pencil_spectrum
from wherefrom.solvers.preconditioner import (
    check_preconditioner,
    preconditioner_settings,
    prepare_preconditioner,
)
from wherefrom.solvers.repair import measured
from wherefrom.solvers.solution import Solution, solution_from

# Mini-batches whose largest eigenvalue is measured to choose the step, and the margin above the largest seen.
_PROBED_BATCHES = 8
_MARGIN = 1.25
_BATCH_LANCZOS = 10
_FULL_LANCZOS = 30
# The smallest Ritz value of a short run is above the smallest eigenvalue; automatic steps allow for this.
_CAUTION = 0.5
_FEWEST_STEPS = 10
# The error left is solved for by so many full steps at most, this loosely.
_ERROR_STEPS = 3
_LOOSE = 0.1
# Growth of the iterate beyond what a convergent run can reach: certain divergence.
_GROWTH = 1e4
_CHECK_EVERY = 20


class Astra(Solver):
    """`x ← x + η M⁻¹(v − C̃_λ x)` with a fresh mini-batch in `C̃` each step, from `x₀ = M⁻¹v`; the iterates of
    the second half are averaged.

    `M⁻¹` makes the curvature nearly round, so that hundreds of steps do what LiSSA needs thousands for
    (ASTRA: EK-FAC as preconditioner). Three things are added here:

    - *Anchors.* From the full residual `r = v − C_λ x` of an anchor, the steps solve `C_λ e = r` from zero:
      the noise of the mini-batches is then proportional to the error of the anchor, not to the answer, at
      the price of one full product a column and anchor. `anchors=0` is the paper's form.
    - *Line search.* The full residual after each round also gives `eᵀC_λe`: `e` is taken at its best length,
      so that the error in the energy norm never grows over that of the preconditioner's answer.
    - *A step that is safe for every mini-batch*, from the largest eigenvalue of `M⁻¹C̃_λ` over several.

    The expectation follows the deterministic recursion, so the bias falls like `(1 − η λ_min(M⁻¹C_λ))^t`; the
    spread of independent repeats gives the standard error. The error left, noise and bias together, is
    estimated by a few steps of preconditioned CG on the final full residual; the standard error is in the
    notes.

    Args:
        preconditioner: a `Solver` (prepared on the same damped operator) or an operator close to `C_λ⁻¹`,
            positive definite.
        batch_size: examples per mini-batch.
        steps: steps per round and repeat. `None`: enough for a relative bias of `bias`, from a measured
            smallest eigenvalue.
        repeats: independent runs that are averaged.
        anchors: full residuals from which rounds of steps start.
        step_size: `η`. `None`: from the largest eigenvalues of several mini-batches.
        bias: bias of a round that automatic steps aim at, relative to the error it starts from.
        max_steps: limit of automatic steps; reaching it is reported as not converged.

    Cost: `repeats · steps · max(anchors, 1)` mini-batch products and as many products with `M⁻¹` a column,
    and `anchors + 4` full ones; to prepare, 30 full products of one column. That is below the cost of
    preconditioned CG where `repeats · steps · batch_size` is well below `n` times CG's iterations: from about
    100,000 examples on.

    Source: Wang et al. 2025, *ASTRA: EKFAC-accelerated Neumann series iterations for training data
    attribution*; the anchors are those of Johnson & Zhang 2013 (SVRG), the averages of Polyak & Juditsky
    1992.
    """

    name = "astra"

    def __init__(
        self,
        preconditioner: LinearOperator | Solver,
        batch_size: int = 64,
        steps: int | None = None,
        repeats: int = 4,
        anchors: int = 1,
        step_size: float | None = None,
        bias: float = 0.05,
        max_steps: int = 1000,
    ):
        check_preconditioner(preconditioner, required=True)
        for name, value in (("batch_size", batch_size), ("repeats", repeats), ("max_steps", max_steps)):
            whole(name, value, 1)
        if steps is not None:
            whole("steps", steps, 1, expected="a whole number of at least 1 step, or None")
        whole("anchors", anchors, 0, expected="0 (none) or more full residuals, a whole number")
        if step_size is not None:
            number("step_size", step_size, above=0, expected="a positive number, or None")
        number("bias", bias, above=0, below=1)
        self.preconditioner = preconditioner
        self.batch_size = batch_size
        self.steps = steps
        self.repeats = repeats
        self.anchors = anchors
        self.step_size = step_size
        self.bias = bias
        self.max_steps = max_steps

    def settings(self) -> dict[str, Any]:
        return {
            "solver": self.name,
            "preconditioner": preconditioner_settings(self.preconditioner),
            "batch_size": self.batch_size,
            "steps": self.steps,
            "repeats": self.repeats,
            "anchors": self.anchors,
            "step_size": self.step_size,
            "bias": self.bias,
            "max_steps": self.max_steps,
        }

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        """
        Raises:
            InputError: the operator has no examples, or the preconditioner is not positive definite or of
                another size.
            UnsupportedError: the preconditioner's answer is no fixed linear map.
            NotPositiveDefiniteError: a Ritz value of the curvature is not positive.
        """
        if operator.n_examples is None:
            raise InputError(
                "Astra draws mini-batches of training examples; this operator has none. Use CG or Exact."
            )
        return _PreparedAstra(operator, self, seed)


class _PreparedAstra(PreparedSolver):
    name = "Astra"

    def __init__(self, operator: LinearOperator, settings: Astra, seed: int):
        assert operator.n_examples is not None
        bound, proven = eigenvalue_floor(operator, seed)
        super().__init__(operator, bound, proven)
        self.settings = settings
        self._seed = seed
        self._n = operator.n_examples
        self._batch = min(settings.batch_size, self._n)
        self._inverse = prepare_preconditioner(settings.preconditioner, operator, seed)
        self.step_size = settings.step_size or 1 / (_MARGIN * self._largest())
        full = pencil_spectrum(operator, self._inverse, steps=_FULL_LANCZOS, seed=seed)
        if full.smallest <= 0:
            raise self._refused(full.smallest)
        contraction = 1 - min(self.step_size * _CAUTION * full.smallest, 0.999)
        # The average over the second half of the steps has at most the bias of its first iterate.
        self._wanted = max(_FEWEST_STEPS, math.ceil(2 * math.log(settings.bias) / math.log(contraction)))
        self.steps = settings.steps or min(self._wanted, settings.max_steps)
        self._short = settings.steps is None and self._wanted > settings.max_steps
        self.notes = {
            "step_size": self.step_size,
            "steps": self.steps,
            "repeats": settings.repeats,
            "anchors": settings.anchors,
            "batch_size": self._batch,
            "bias_bound": contraction ** (self.steps // 2 + 1),
            "preconditioned_smallest_ritz": full.smallest,
            "preconditioned_largest_ritz": full.largest,
        }

    def _refused(self, _: float) -> NotPositiveDefiniteError:
        # The preconditioned value has no units of damping.
        return measured(self.operator, 0.0, self._seed)

    def _largest(self) -> float:
        """The largest eigenvalue of `M⁻¹C̃_λ` over a few mini-batches."""
        generator = torch.Generator().manual_seed(self._seed)
        spectra = (
            pencil_spectrum(self._draw(generator), self._inverse, steps=_BATCH_LANCZOS, seed=self._seed)
            for _ in range(_PROBED_BATCHES)
        )
        return max(spectrum.largest_upper for spectrum in spectra)

    def _draw(self, generator: torch.Generator) -> LinearOperator:
        indices = torch.randint(self._n, (self._batch,), generator=generator)
        return self.operator.sampled(indices.to(self.operator.device))

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        settings, k = self.settings, rhs.shape[1]
        x = self._inverse.matmat(rhs)
        rounds = max(settings.anchors, 1)
        with progress_bar("Astra", rounds * settings.repeats * self.steps) as bar:
            if settings.anchors == 0:
                x, spread = self._round(rhs, x, 0, bar)
                residual = rhs - self.operator.matmat(x)
            else:
                x, residual, _ = self._searched(torch.zeros_like(rhs), x, rhs)
                for number in range(settings.anchors):
                    change, spread = self._round(residual, torch.zeros_like(rhs), number, bar)
                    x, residual, length = self._searched(x, change, residual)
                    spread = spread * length
        self.notes["standard_error"] = float(spread.norm() / x.norm().clamp(min=1e-300))
        loose = _LOOSE * residual.norm(dim=0)
        error = (
            BlockIteration(self.operator, self._inverse, self._refused).run(residual, loose, _ERROR_STEPS).x
        )
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=torch.full((k,), not self._short),
            reason=self._shortfall() if self._short else "",
            iterations=torch.full((k,), rounds * settings.repeats * self.steps),
            error_directions=error[None],
            residual=residual,
        )

    def _searched(
        self, x: Float[Tensor, "p k"], change: Float[Tensor, "p k"], residual: Float[Tensor, "p k"]
    ) -> tuple[Float[Tensor, "p k"], Float[Tensor, "p k"], Float[Tensor, " k"]]:
        """`x` plus the best multiple of `change`, its residual, and the multiple. One full product."""
        image = self.operator.matmat(change)
        energy = (change * image).double().sum(0)
        gain = (change * residual).double().sum(0) / energy
        length = torch.where(energy > 0, gain, torch.zeros_like(gain)).to(x.dtype)
        return x + length * change, residual - length * image, length

    def _round(
        self, rhs: Float[Tensor, "p k"], start: Float[Tensor, "p k"], number: int, bar: Any
    ) -> tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]]:
        """Mean of the repeats of one round, and its standard error, entry by entry (0 for one repeat)."""
        runs = []
        for repeat in range(self.settings.repeats):
            seed = (self._seed * 1_000_003 + number) * 1_009 + repeat
            runs.append(self._run(rhs, start, torch.Generator().manual_seed(seed), bar))
        stacked = torch.stack(runs)
        spread = stacked.std(0, correction=1) if len(runs) > 1 else torch.zeros_like(rhs)
        return stacked.mean(0), spread / math.sqrt(len(runs))

    def _run(
        self, rhs: Float[Tensor, "p k"], start: Float[Tensor, "p k"], generator: torch.Generator, bar: Any
    ) -> Float[Tensor, "p k"]:
        """One run of steps, averaged over its second half."""
        state, total = start, torch.zeros_like(start)
        answer = float(self._inverse.matmat(rhs).norm(dim=0).max())
        limit = _GROWTH * (float(start.norm(dim=0).max()) + answer * max(1.0, self.step_size * self.steps))
        first = self.steps // 2
        for step in range(self.steps):
            left = rhs - self._draw(generator).matmat(state)
            state = state + self.step_size * self._inverse.matmat(left)
            if step >= first:
                total = total + state
            if (step + 1) % _CHECK_EVERY == 0 or step == self.steps - 1:
                size = float(state.norm(dim=0).max())
                if not size <= limit:
                    raise DivergenceError(
                        f"Astra diverged: after {step + 1} of {self.steps} steps the iterate has norm "
                        f"{size:.3g}. step_size={self.step_size:.4g} is too large for the preconditioned "
                        "curvature of some mini-batch. Leave step_size=None to have it measured, lower it "
                        f"(try {self.step_size / 4:.3g}), or use a larger batch_size than {self._batch}."
                    )
                bar.advance(step % _CHECK_EVERY + 1)
        return total / (self.steps - first)

    def _shortfall(self) -> str:
        return (
            f"steps are limited to max_steps={self.settings.max_steps}, but a bias of {self.settings.bias:g} "
            f"needs {self._wanted}: allow more, add damping, or use a better preconditioner"
        )
