"""A fitted influence function: curvature, damping and solver bound to one objective, ready for queries."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.contraction import GradientSource
from wherefrom.curvature import Curvature, choose_curvature
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.gradients import ExampleGradients, GradientEngine, GradientSizes, HvpMode
from wherefrom.gradients.hvp import HVP_MODES
from wherefrom.influence.choice import say_choice
from wherefrom.influence.finite_gradients import require_finite_gradients
from wherefrom.influence.flat_loss import refuse_flat_loss
from wherefrom.influence.identity import fit_identity
from wherefrom.influence.measurements import Measurement, check_measurement
from wherefrom.influence.minimum import MinimumCheck, check_minimum
from wherefrom.influence.score_errors import overlap_with, rounding_estimate, score_bound
from wherefrom.linalg import Spectrum, lanczos_spectrum
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_display
from wherefrom.solvers import (
    CG,
    BlockDiagonal,
    BlockSolver,
    Damping,
    Identity,
    PreparedBlocks,
    PreparedSolver,
    RelativeDamping,
    Solution,
    Solver,
    choose_damping,
    choose_solver,
    keep_factors,
    relative_damping,
    require_solver,
    solve_scaled,
)
from wherefrom.store.not_pickled import NotPickled
from wherefrom.task import (
    Objective,
    check_batch_independence,
    check_examples,
    check_inputs_untouched,
    check_meaning,
    check_model,
    refuse_autocast,
)

# Vectors of size p held per query while a block of queries is solved.
_VECTORS_PER_QUERY = 10
_SOLVE_SHARE = 0.5
# Training gradients whose scores tell a solver when to stop, and their share of the memory budget.
_LEAST_WATCHED, _MOST_WATCHED = 32, 256
_WATCH_SHARE = 0.1
# Enough for the largest eigenvalue to a percent or so, which is all that is asked where the damping is given.
_LANCZOS_STEPS = 12
# Training gradients by which the rounding of dot products is gauged.
_FEW = 8
# Entries of exact solutions and gradients are off by one to twenty units, measured on softmax, dense and
# convolutional models in float32 and float64, primal and dual; networks of several layers lose more than a
# linear head.
_ROUNDING_UNITS_HEAD = 2.5
_ROUNDING_UNITS = 5.0


@dataclass(frozen=True)
class FitOptions:
    """What the user may choose; every field has a default that works.

    Raises:
        InputError: a batch size, a number of draws or a seed that is no such integer, or an unknown
            `hvp_mode`.
    """

    curvature: str = "auto"
    solver: Solver | str = "auto"
    damping: float | RelativeDamping | Literal["auto"] = "auto"
    batch_size: int | None = None
    hvp_mode: HvpMode | Literal["auto"] = "auto"
    fisher_draws: int = 1
    seed: int = 0
    progress: bool = True
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        require_solver(self.solver)
        batch_words = "None (chosen from memory=) or a whole number of at least 1"
        if self.batch_size is not None:
            self._set("batch_size", whole("batch_size", self.batch_size, 1, expected=batch_words))
        self._set("fisher_draws", whole("fisher_draws", self.fisher_draws, 1))
        self._set("seed", whole("seed", self.seed))
        modes = ("auto", *HVP_MODES)
        if not isinstance(self.hvp_mode, str) or self.hvp_mode not in modes:
            raise InputError(
                f"hvp_mode={self.hvp_mode!r}: expected one of {', '.join(map(repr, modes))}; 'auto' takes "
                "the faster of the two"
            )

    def _set(self, name: str, value: int) -> None:
        object.__setattr__(self, name, value)  # NumPy's integers are no JSON values


@dataclass(frozen=True)
class SolvedBlock:
    """Query gradients and their solutions for a block of queries."""

    where: slice
    gradients: Float[Tensor, "p k"]
    solution: Solution


class FittedInfluence(NotPickled):
    """Everything computed once: checks, curvature, spectrum, damping, factorisation.

    Attributes:
        objective, engine, curvature, damping, solver, prepared: the pieces in use.
        spectrum: of `C` without damping.
        mean_gradient: `(1/n) Σ g_i`, without the regulariser's.
        minimum: whether `θ̂` is a minimum.
    """

    def __init__(self, objective: Objective, options: FitOptions):
        self.objective = objective
        self.options = options
        check_model(objective.model)
        check_inputs_untouched(objective)
        check_meaning(objective)
        self.engine = GradientEngine(objective, options.batch_size)
        seen = check_examples(
            objective,
            objective.examples,
            batch_size=self.engine.forward_batch(max(self.engine.batch_size, 256)),
            progress=options.progress,
        )
        check_batch_independence(objective, seen)
        self.engine.check_derivatives()
        self.curvature: Curvature = choose_curvature(
            self.engine,
            options.curvature,
            hvp_mode=options.hvp_mode,
            fisher_draws=options.fisher_draws,
            seed=options.seed,
        )
        if options.run_dir is not None:
            keep_factors(self.curvature.operator, options.run_dir)
        self.train_gradients = ExampleGradients(self.engine, objective.examples, objective.loss)
        self.solver, self.solver_reason = choose_solver(
            options.solver,
            self.curvature.operator,
            memory=objective.memory,
            damped=_will_damp(options.damping),
        )
        say_choice(options.solver, self.solver, self.solver_reason, enabled=options.progress)
        if self.curvature.name in ("hessian", "ggn") and not isinstance(self.solver, Identity):
            refuse_flat_loss(objective, self.engine.batch_size)
        # Solvers of blocks hand their gradients' factors on, and refuse NaN in these themselves.
        blocks = isinstance(self.solver, (BlockSolver, BlockDiagonal))
        gradients = None if blocks else self._mean_and_typical_gradient(None)
        with (
            progress_display(options.progress),
            memory_errors(
                "preparing the solver", "Lower memory=, attribute fewer parameters, or use solver=CG()."
            ),
        ):
            self.damping: Damping = self._choose_damping()
            self.prepared: PreparedSolver = self.damping.prepared or self.solver.prepare(
                self.damping.add_to(self.curvature.operator), seed=options.seed
            )
        if isinstance(self.solver, CG) and self.solver.stop == "scores":
            self.prepared.watch(self._watched())
        self.spectrum: Spectrum = self._spectrum()
        self.mean_gradient, rms = gradients or self._mean_and_typical_gradient(self.prepared)
        self.minimum: MinimumCheck = check_minimum(
            objective,
            self.curvature,
            self.spectrum,
            self.mean_gradient,
            rms,
            damping=0.0 if self.damping.departs else self.damping.value,
        )

    def _choose_damping(self) -> Damping:
        """As asked; by default relative to each layer where layers are solved apart, else from the
        spectrum."""
        damping = self.options.damping
        operator = self.curvature.operator
        if isinstance(self.solver, Identity) and damping == "auto":
            return Damping(0.0, "none: the identity inverts no curvature")
        if isinstance(self.solver, (BlockSolver, BlockDiagonal)) and damping == "auto":
            damping = RelativeDamping()
        if isinstance(damping, RelativeDamping):
            return relative_damping(operator, damping, self.solver, seed=self.options.seed)
        return choose_damping(
            operator,
            damping,
            exact_curvature=self.curvature.is_hessian,
            solver=self.solver,
            affine=self.engine.affine,
            seed=self.options.seed,
        )

    def _watched(self) -> Float[Tensor, "p m"]:
        """Gradients of training examples spread over the set, by which a solver sees its scores settle."""
        fitting = self.objective.memory * _WATCH_SHARE // (self.objective.p * self.objective.dtype.itemsize)
        count = int(max(_LEAST_WATCHED, min(_MOST_WATCHED, fitting)))
        index = torch.tensor(self.objective.examples.spread(count), device=self.objective.device)
        size = self.engine.rows_per_batch()
        return torch.cat([self.train_gradients.rows(part) for part in index.split(size)]).T

    def _spectrum(self) -> Spectrum:
        """Extreme eigenvalues of `C`: those already measured, the Kronecker approximation's, or a short
        Lanczos run's."""
        operator = self.curvature.operator
        if self.damping.spectrum is not None:
            return self.damping.spectrum
        if isinstance(self.prepared, PreparedBlocks) and self.prepared.curvature is not None:
            known = self.prepared.curvature
            smallest = min(float(values.min()) for values in known.eigenvalues)
            return Spectrum(smallest, known.largest, 0.0, 0.0, sum(known.traces().values()), 0)
        # The identity makes no use of the curvature: one product tells its size.
        steps = 1 if isinstance(self.prepared, PreparedBlocks) else _LANCZOS_STEPS
        return lanczos_spectrum(operator, steps=steps, starts=1, seed=self.options.seed)

    def _mean_and_typical_gradient(
        self, prepared: PreparedSolver | None
    ) -> tuple[Float[Tensor, " p"], float]:
        """Of the training losses, all finite; from the gradients' factors where these are at hand."""
        train = self.train_gradients
        if isinstance(prepared, PreparedBlocks):
            mean, size = GradientSource(prepared.layers, train.examples, train.measure).mean_and_norm()
        else:
            mean, size = train.mean(), train.typical_norm()
        require_finite_gradients(train, mean)
        return mean, size

    @functools.cached_property
    def identity(self) -> str:
        """A fingerprint of model, data, loss and regulariser: results are of this fit or of another."""
        return fit_identity(self.objective)

    def settings(self) -> dict[str, Any]:
        """Everything that defines the scores, as JSON values."""
        objective = self.objective
        return {
            "loss": objective.loss.settings(),
            **self.curvature.settings,
            "curvature_reason": self.curvature.reason,
            "damping": self.damping.value,
            "damping_reason": self.damping.reason,
            "damping_per_block": None if self.damping.per_block is None else dict(self.damping.per_block),
            **self.solver.settings(),
            "solver_reason": self.solver_reason,
            "solver_notes": dict(self.prepared.notes),
            "n": objective.n,
            "p": objective.p,
            "parameters": list(objective.parameters.names),
            "frozen": list(objective.parameters.frozen),
            "unselected": list(objective.parameters.unselected),
            "dtype": str(objective.dtype).removeprefix("torch."),
            "device": str(objective.device),
            "structure": self.engine.structure,
            "per_example_gradients": self.engine.per_example,
            "batch_size": self.engine.batch_size,
            "memory": objective.memory,
            "seed": self.options.seed,
            "torch": torch.__version__,
        }

    def solve_queries(self, gradients: ExampleGradients) -> Iterator[SolvedBlock]:
        """Query gradients and `C_λ⁻¹` of them, in blocks that fit the memory budget."""
        size = self.block_size()
        for start in range(0, len(gradients), size):
            where = slice(start, min(start + size, len(gradients)))
            with memory_errors(
                "solving for a block of queries", "Lower memory= or pass fewer queries at once."
            ):
                rows, shaken = self._rows(gradients, where)
                rhs = rows.T
                solution = self.solve(rhs)
                solution = replace(solution, rhs_shaken=shaken, overlap=self.overlap(solution.x))
            yield SolvedBlock(where, rhs, solution)

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """`C_λ⁻¹ v`, refused if it is not finite."""
        refuse_autocast()
        self.objective.check_unchanged()
        if not bool(torch.isfinite(rhs).all()):
            raise NonFiniteError(
                "a gradient holds NaN or infinity: the loss is not differentiable at these parameters"
            )
        with progress_display(self.options.progress):
            solution = solve_scaled(self.prepared, rhs)
        if not bool(torch.isfinite(solution.x).all()):
            raise NonFiniteError(
                f"solver {self.solver.name!r} returned NaN or infinity: raise damping (now "
                f"{self.damping.value:g}) or use dtype=torch.float64"
            )
        return solution

    def block_size(self) -> int:
        """Queries solved together."""
        bytes_each = self.objective.p * self.objective.dtype.itemsize * _VECTORS_PER_QUERY
        return int(max(1, min(1024, self.objective.memory * _SOLVE_SHARE // bytes_each)))

    def score_bound(
        self, solution: Solution, gradients: GradientSizes | Float[Tensor, " b"], floor: float | None = None
    ) -> Float[Tensor, "k b"]:
        """See `influence.score_errors.score_bound`; `floor` stands for `λ_min` where the solution is of
        another system. Where the answer sought is that of `C` itself, its residual is `r + λx`."""
        floor = self.prepared.lower_bound if floor is None else floor
        largest = max(self.spectrum.largest_upper, 0.0) + self.damping.value
        if self.damping.departs:
            missing = self.damping.value * solution.x.norm(dim=0)
            solution = replace(solution, residual_norm=solution.residual_norm + missing)
            floor -= self.damping.value
        return score_bound(solution, gradients, floor=floor, largest=largest)

    def rounding_estimate(
        self,
        solution: Solution,
        gradients: GradientSizes | Float[Tensor, " b"],
        scores: Float[Tensor, "k b"] | None = None,
    ) -> Float[Tensor, "k b"]:
        """See `influence.score_errors.rounding_estimate`."""
        units = _ROUNDING_UNITS_HEAD if self.engine.affine else _ROUNDING_UNITS
        return rounding_estimate(solution, gradients, scores, units=units)

    def overlap(self, x: Float[Tensor, "p k"]) -> Float[Tensor, " k"]:
        """See `influence.score_errors.overlap_with`: with a few training gradients."""
        return overlap_with(x, self._few_gradients)

    @functools.cached_property
    def _few_gradients(self) -> Float[Tensor, "m p"]:
        chosen = torch.tensor(self.objective.examples.spread(_FEW), device=self.objective.device)
        parts = chosen.split(self.engine.rows_per_batch())
        return torch.cat([self.train_gradients.rows(part) for part in parts])

    def measure_gradients(self, queries: Any, measurement: Measurement) -> ExampleGradients:
        """Checked queries and the gradients of a measurement on them."""
        examples = self.objective.read(queries, role="queries")
        self.objective.check_unchanged()
        seen = check_examples(
            self.objective,
            examples,
            batch_size=self.engine.forward_batch(max(self.engine.batch_size, 256)),
            progress=False,
        )
        check_measurement(self.objective, examples, measurement, seen)
        return ExampleGradients(self.engine, examples, measurement.function)

    def _rows(
        self, gradients: ExampleGradients, where: slice
    ) -> tuple[Float[Tensor, "k p"], Float[Tensor, " k"]]:
        """Explicit gradients and how far rounding moves them, taken in pieces so that graphs stay within the
        working memory."""
        size = self.engine.rows_per_batch()
        parts = [
            gradients.rows_and_sizes(slice(start, min(start + size, where.stop)))
            for start in range(where.start, where.stop, size)
        ]
        return torch.cat([rows for rows, _ in parts]), torch.cat([sizes.shaken for _, sizes in parts])


def _will_damp(damping: Any) -> bool:
    """Whether damping will be positive; what is no number is refused where it is used."""
    return not isinstance(damping, (int, float)) or damping > 0
