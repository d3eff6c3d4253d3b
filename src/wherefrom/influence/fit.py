"""A fitted influence function: curvature, damping and solver bound to one objective, ready for queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature import Curvature, choose_curvature
from wherefrom.errors import InputError
from wherefrom.gradients import Coverage, ExampleGradients, GradientEngine
from wherefrom.influence.attributor import Attributor, Estimand, Measured
from wherefrom.influence.choice import say_choice
from wherefrom.influence.finite_gradients import require_finite_gradients
from wherefrom.influence.fit_options import FitOptions
from wherefrom.influence.fit_settings import settings_of
from wherefrom.influence.flat_loss import refuse_flat_loss
from wherefrom.influence.measurements import Measurement, check_measurement
from wherefrom.influence.minimum import MinimumCheck, check_minimum
from wherefrom.influence.scores import Scores
from wherefrom.influence.self_scores import SelfScores
from wherefrom.linalg import Spectrum, lanczos_spectrum
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_display
from wherefrom.solvers import (
    Damping,
    Pairing,
    PreparedSolver,
    RelativeDamping,
    Solution,
    Solver,
    choose_damping,
    choose_solver,
    relative_damping,
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

# Training gradients whose scores tell a solver when to stop, and their share of the memory budget.
_LEAST_WATCHED, _MOST_WATCHED = 32, 256
_WATCH_SHARE = 0.1
# Enough for the largest eigenvalue to a percent or so, which is all that is asked where the damping is given.
_LANCZOS_STEPS = 12


F = TypeVar("F", bound=Attributor)


# Filled by `fit`.
_CHOSEN = {"engine", "curvature", "train_gradients", "solver", "solver_reason", "damping", "prepared"}
_FITTED = _CHOSEN | {"pairing", "extremes", "mean_gradient", "_minimum"}


class Fit(Attributor):
    """A curvature, its damping and a prepared solver for one objective: what scores are made of.

    Attributes:
        engine, curvature, damping, solver, prepared: the pieces in use, after `fit`.
        pairing: of solutions with gradients, with the error of each product.
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
    pairing: Pairing
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
        self._ready()
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
            run_dir=options.run_dir,
        )
        self.train_gradients = ExampleGradients(self.engine, objective.examples, objective.loss)
        self.solver, self.solver_reason = choose_solver(
            options.solver,
            self.curvature.operator,
            memory=objective.memory,
            damped=_will_damp(options.damping),
        )
        say_choice(options.solver, self.solver, self.solver_reason, enabled=options.progress)
        if self.curvature.name in ("hessian", "ggn") and self.solver.uses_curvature:
            refuse_flat_loss(objective)
        # Solvers of blocks hand their gradients' factors on, and refuse NaN in these themselves.
        gradients = None if self.solver.layers_apart else self._mean_and_typical_gradient(None)
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
        if self.prepared.follows_scores:
            self.prepared.watch(self._watched())
        self.extremes = self._spectrum()
        self.pairing = Pairing(
            self.prepared,
            self.train_gradients,
            solver=self.solver.name,
            damping=self.damping.value if self.damping.diagonal is None else self.damping.diagonal,
            most_damping=self.damping.value,
            departs=self.damping.departs,
            largest=self.extremes.largest_upper,
            progress=options.progress,
        )
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
        if not self.solver.uses_curvature and damping == "auto":
            return Damping(0.0, "none: the identity inverts no curvature")
        if self.solver.layers_apart and damping == "auto":
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
        known = self.prepared.spectrum()
        if known is not None:
            return known
        # The identity makes no use of the curvature: one product tells its size.
        steps = _LANCZOS_STEPS if self.solver.uses_curvature else 1
        return lanczos_spectrum(operator, steps=steps, starts=1, seed=self.options.seed)

    def _mean_and_typical_gradient(
        self, prepared: PreparedSolver | None
    ) -> tuple[Float[Tensor, " p"], float]:
        """Of the training losses, all finite; from the gradients' factors where these are at hand."""
        train = self.train_gradients
        if prepared is not None and prepared.layers is not None:
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
        return "fair" if self.solver.uses_curvature else "poor"

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

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """`C_λ⁻¹ v`, refused if it is not finite."""
        refuse_autocast()
        self.objective.check_unchanged()
        return self.pairing.solve(rhs)

    def apply(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """The same, without the work that only its error needs."""
        refuse_autocast()
        self.objective.check_unchanged()
        return self.pairing.apply(rhs)

    def measure_gradients(self, queries: Any, measurement: Measurement) -> ExampleGradients:
        """Checked queries and the gradients of a measurement on them."""
        engine = self.engine  # refused before a fit
        examples = self.objective.read(queries, role="queries")
        self.objective.check_unchanged()
        seen = check_examples(
            self.objective,
            examples,
            progress=False,
        )
        check_measurement(self.objective, examples, measurement, seen)
        return ExampleGradients(engine, examples, measurement.function)


def _will_damp(damping: Any) -> bool:
    """Whether damping will be positive; what is no number is refused where it is used."""
    return not isinstance(damping, (int, float)) or damping > 0
