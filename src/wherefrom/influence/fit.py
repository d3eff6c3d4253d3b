"""A fitted influence function: curvature, damping and solver bound to one objective, ready for queries."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature import Curvature, choose_curvature
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.gradients import Coverage, ExampleGradients, GradientEngine, GradientSizes
from wherefrom.influence.attributor import Attributor, Estimand, Measured
from wherefrom.influence.choice import say_choice
from wherefrom.influence.finite_gradients import require_finite_gradients
from wherefrom.influence.fit_options import FitOptions
from wherefrom.influence.fit_settings import settings_of
from wherefrom.influence.flat_loss import refuse_flat_loss
from wherefrom.influence.measurements import Measurement, check_measurement
from wherefrom.influence.minimum import MinimumCheck, check_minimum
from wherefrom.influence.score_errors import overlap_with, rounding_estimate, score_bound
from wherefrom.influence.scores import Scores
from wherefrom.influence.self_scores import SelfScores
from wherefrom.influence.solved_block import SolvedBlock
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
    solve_scaled,
)
from wherefrom.solvers.contraction import GradientSource
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


F = TypeVar("F", bound=Attributor)


# Filled by `fit`.
_CHOSEN = {"engine", "curvature", "train_gradients", "solver", "solver_reason", "damping", "prepared"}
_FITTED = _CHOSEN | {"extremes", "mean_gradient", "_minimum"}


class Fit(Attributor):
    """A curvature, its damping and a prepared solver for one objective: what scores are made of.

    Attributes:
        engine, curvature, damping, solver, prepared: the pieces in use, after `fit`.
        extremes: the extreme eigenvalues of `C`, without damping.
        mean_gradient: `(1/n) Σ g_i`, without the regulariser's.
        minimum: whether `θ̂` is a minimum.
    """

    name = "influence function"
    estimand: Estimand = "removal at a minimum"
    engine: GradientEngine
    curvature: Curvature
    train_gradients: ExampleGradients
    solver: Solver
    solver_reason: str
    damping: Damping
    prepared: PreparedSolver
    extremes: Spectrum
    mean_gradient: Float[Tensor, " p"]
    _minimum: MinimumCheck

    def __init__(self, objective: Objective, options: FitOptions | None = None):
        self.options = options or FitOptions()
        super().__init__(objective, run_dir=self.options.run_dir, progress=self.options.progress)

    def __getattr__(self, name: str) -> Any:
        if name in _FITTED:
            raise InputError("this Influence is not fitted yet: call .fit() first")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def fit(self: F) -> F:
        """Check model and data, build the curvature, choose damping and solver, factorise what is factorised
        once.

        Raises:
            InputError: what cannot be used as given, a curvature that cannot be inverted among it.
        """
        cast(Fit, self)._fit_anew()
        return self

    def _fit_anew(self) -> None:
        self._forget()
        try:
            self._fit()
        except BaseException:  # half a fit is none
            self._forget()
            raise

    def _forget(self) -> None:
        for name in _FITTED:
            self.__dict__.pop(name, None)

    @property
    def minimum(self) -> MinimumCheck:
        """Whether the trained parameters are a minimum of the objective, with a verdict in plain words."""
        self._ready("minimum")
        return self._minimum

    def _fit(self) -> None:
        objective, options = self.objective, self.options
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
        self.curvature = choose_curvature(
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
            self.damping = self._choose_damping()
            self.prepared = self.damping.prepared or self.solver.prepare(
                self.damping.add_to(self.curvature.operator), seed=options.seed
            )
        if isinstance(self.solver, CG) and self.solver.stop == "scores":
            self.prepared.watch(self._watched())
        self.extremes = self._spectrum()
        self.mean_gradient, rms = gradients or self._mean_and_typical_gradient(self.prepared)
        self._minimum = check_minimum(
            objective,
            self.curvature,
            self.extremes,
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

    def settings(self) -> dict[str, Any]:
        """Everything that defines the scores, as JSON values."""
        return settings_of(self)

    @property
    def approximation(self) -> str:
        """What the solver leaves out of the curvature by design, or damping holds back, in plain words; empty
        if nothing."""
        if self.prepared.left_out or self.damping.value <= 0 or self.damping.departs:
            return self.prepared.left_out
        return f"a damping of {self.damping.value:.2g} holds back the directions of less curvature"

    @property
    def limit(self) -> Literal["good", "fair", "poor"]:
        """Without any curvature nothing is established."""
        return "poor" if self.solver.name == "identity" else "fair"

    @property
    def covered(self) -> Sequence[Coverage]:
        """Which layer rule attributes which parameters, where the solver treats layers apart."""
        return self.prepared.coverage()

    def scores(self, queries: Any, measurement: Measured = "loss", *, refine: int = 0) -> Scores:
        """Scores of all training examples for all queries, each with its error; see `compute_scores`."""
        from wherefrom.influence.compute import compute_scores  # which computes with this class

        return compute_scores(self, queries, measurement, refine=refine)

    def self_scores(self, indices: Sequence[int] | Tensor | np.ndarray | None = None) -> SelfScores:
        """Self-influence of training examples; see `compute_self_scores`."""
        from wherefrom.influence.compute import compute_self_scores

        return compute_self_scores(self, indices)

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
        largest = max(self.extremes.largest_upper, 0.0) + self.damping.value
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
        engine = self.engine  # refused before a fit
        examples = self.objective.read(queries, role="queries")
        self.objective.check_unchanged()
        seen = check_examples(
            self.objective,
            examples,
            batch_size=engine.forward_batch(max(engine.batch_size, 256)),
            progress=False,
        )
        check_measurement(self.objective, examples, measurement, seen)
        return ExampleGradients(engine, examples, measurement.function)

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
