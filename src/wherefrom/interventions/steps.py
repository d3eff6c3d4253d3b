"""Steps from `θ̂` towards the optimum of an edited objective, each with what it does to the queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.gradients import ExampleGradients
from wherefrom.influence import Fit, Measurement
from wherefrom.interventions.edited_objective import EditedObjective
from wherefrom.solvers import CG, Solution, preconditioner_of

# Steps towards the optimum, and the share of the whole way at which a step is too small to matter, in length
# or in the norm of the curvature: where the objective leaves a direction free, rounding alone makes steps.
_MOST_STEPS = 100
# Slope at the end of a step, relative to that at its start, from which on its length is corrected; how much
# longer it may get; steps remembered.
_SLOPE_LEFT, _LONGEST, _PAIRS = 0.5, 4.0, 20
_SETTLED = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True)
class Step:
    """A prediction of one order.

    Attributes:
        order: `"first"`, `"second"`, `"newton"` or `"optimum"`.
        x: `(p, 1)`: `−Δθ`.
        values, error, bound: `(q,)`: the change of the measurement, and the solver's error in it.
        reasons: what did not converge, in words.
    """

    order: str
    x: Float[Tensor, "p 1"]
    values: Float[Tensor, " q"]
    error: Float[Tensor, " q"]
    bound: Float[Tensor, " q"]
    reasons: frozenset[str]

    @property
    def converged(self) -> bool:
        return not self.reasons


class Steps:
    """All orders of prediction for one edited objective and one set of queries.

    Args:
        edited: the edited objective.
        gradients: of the measurement on the queries.
        measured: the measurement.
    """

    def __init__(self, edited: EditedObjective, gradients: ExampleGradients, measured: Measurement):
        self._edited, self._gradients, self._measured = edited, gradients, measured
        self._fitted = edited.fitted
        self._rhs = edited.gradient_change()[:, None]
        self._before = self._values(self._fitted.objective.parameters.values)

    @property
    def before(self) -> Float[Tensor, " q"]:
        """The measurement at `θ̂`."""
        return self._before.cpu()

    def first(self) -> Step:
        """`C_λ⁻¹ d`, the measurement linearised."""
        solution = self._fitted.solve(self._rhs)
        return Step("first", solution.x, *self._linear(solution), _reasons(solution))

    def second(self, first: Step) -> Step:
        """The next term: `−C_λ⁻¹ (C'_λ − C_λ) C_λ⁻¹ d`."""
        fitted = self._fitted
        whole = fitted.damping.add_to(fitted.curvature.operator)
        correction = fitted.solve(self._edited.curvature().matmat(first.x) - whole.matmat(first.x))
        more, estimate, bound = self._linear(correction)
        return Step(
            "second",
            first.x - correction.x,
            first.values - more,
            first.error + estimate,
            first.bound + bound,
            first.reasons | _reasons(correction),
        )

    def newton(self) -> Step:
        """`C'_λ⁻¹ d`, the measurement not linearised."""
        return self._newton(_LeftOver(self._edited))

    def optimum(self) -> tuple[Step, str]:
        """Steps with `C'_λ⁻¹` until the gradient of the edited objective vanishes; where they do not get
        there, Newton's step and why."""
        left_over = _LeftOver(self._edited)
        newton = self._newton(left_over)
        x, reason = _to_optimum(self._edited, left_over, newton.x, self._rhs)
        if reason:
            return newton, reason
        return Step("optimum", x, self.measure(x), newton.error, newton.bound, newton.reasons), ""

    def remaining(self, step: Step) -> Float[Tensor, " q"]:
        """What one more step with `C_λ` would add to a step's values, the measurement not linearised."""
        return self.measure(step.x + _one_more(self._edited, step.x)) - step.values

    def measure(self, x: Float[Tensor, "p 1"]) -> Float[Tensor, " q"]:
        """`m_q(θ̂ − x) − m_q(θ̂)`."""
        parameters = self._fitted.objective.parameters
        after = self._values(parameters.unflatten(parameters.flat() - x[:, 0]))
        return (after - self._before).cpu()

    def _values(self, values: Mapping[str, Tensor]) -> Float[Tensor, " q"]:
        examples = self._gradients.examples
        return self._fitted.objective.measured(examples, self._measured.function, values)

    def _newton(self, left_over: _LeftOver) -> Step:
        solution = left_over.solve(self._rhs)
        _, estimate, bound = self._linear(solution, left_over.lower_bound)
        return Step("newton", solution.x, self.measure(solution.x), estimate, bound, _reasons(solution))

    def _linear(
        self, solution: Solution, floor: float | None = None
    ) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"], Float[Tensor, " q"]]:
        """`−∇m_qᵀ x` with its expected error and its bound."""
        pairing = self._fitted.pairing
        values, errors, bounds = [], [], []
        for _, made, expected, sizes in pairing.products(self._gradients, solution):
            values.append(-made[:, 0])
            errors.append(expected[:, 0])
            bounds.append(pairing.score_bound(solution, sizes, floor)[0].to(made.dtype))
        return torch.cat(values).cpu(), torch.cat(errors).cpu(), torch.cat(bounds).cpu()


class _LeftOver:
    """`C'_λ⁻¹` by conjugate gradients, preconditioned by the solver of `C_λ` where that is a fixed map: a few
    examples change it in a few directions only."""

    def __init__(self, edited: EditedObjective):
        fitted = edited.fitted
        rtol = 1e-10 if fitted.objective.dtype == torch.float64 else 1e-5
        solver = CG(rtol=rtol, preconditioner=preconditioner_of(fitted.prepared))
        with _about_what_is_left():
            self._prepared = solver.prepare(edited.curvature(), seed=fitted.options.seed)
        self.lower_bound = self._prepared.lower_bound

    def solve(self, rhs: Float[Tensor, "p 1"]) -> Solution:
        with _about_what_is_left():
            return self._prepared.solve(rhs)


@contextmanager
def _about_what_is_left() -> Iterator[None]:
    try:
        yield
    except NotPositiveDefiniteError as error:
        raise NotPositiveDefiniteError(
            f"the curvature left after the intervention is not positive definite ({error}). Or ask for "
            "order='first'.",
            eigenvalue=error.eigenvalue,
            damping=error.damping,
        ) from error


def _gradient(fitted: Fit) -> Float[Tensor, " p"]:
    """`∇J(θ̂)`, which need not vanish."""
    objective = fitted.objective
    mean = fitted.mean_gradient.double() + objective.regulariser.gradient().double()
    return mean.to(objective.dtype)


def _gradient_left(edited: EditedObjective, step: Float[Tensor, "p 1"]) -> Float[Tensor, "p 1"]:
    """`∇J'(θ̂ − step) − ∇J(θ̂)`: what still drives the parameters."""
    objective = edited.fitted.objective
    at = edited.gradient_at(objective.parameters.flat() - step[:, 0])
    return (at - _gradient(edited.fitted))[:, None]


def _one_more(edited: EditedObjective, step: Float[Tensor, "p 1"]) -> Float[Tensor, "p 1"]:
    """The next step with `C_λ`, as long as the objective falls along it: where the curvature in use is
    smaller than the objective's own (a Gauss-Newton matrix of a network), the whole of it is too long."""
    left = _gradient_left(edited, step)
    more = edited.fitted.apply(left).x
    slope, after = float((more * left).sum()), float((more * _gradient_left(edited, step + more)).sum())
    return more * (slope / (slope - after)) if slope > 0 > after else more


def _to_optimum(
    edited: EditedObjective, left_over: _LeftOver, x: Float[Tensor, "p 1"], rhs: Float[Tensor, "p 1"]
) -> tuple[Float[Tensor, "p 1"], str]:
    """From Newton's step on by L-BFGS (Liu & Nocedal 1989), with `C'_λ⁻¹` as its first inverse Hessian; and
    why it ended early, if it did."""
    share = _SETTLED[x.dtype]
    settled, flat = share * float(x.norm()), share**2 * abs(float((x * rhs).sum()))
    pairs: list[tuple[Tensor, Tensor]] = []
    left = _gradient_left(edited, x)
    for _ in range(_MOST_STEPS):
        step = _direction(left_over, left, pairs)
        after = _gradient_left(edited, x + step)
        slope, end = float((step * left).sum()), float((step * after).sum())
        if abs(end) > _SLOPE_LEFT * abs(slope) and slope > end:
            # Convex along the step: where the slope vanishes, by the secant.
            step = step * min(slope / (slope - end), _LONGEST)
            after = _gradient_left(edited, x + step)
        change = left - after
        if float((step * change).sum()) > 0:
            pairs = [*pairs[1 - _PAIRS :], (step, change)]
        x, left = x + step, after
        if float(step.norm()) <= settled or abs(slope) <= flat:
            return x, ""
    return x, f"The optimum was not reached in {_MOST_STEPS} steps. Retrain instead."


def _direction(
    left_over: _LeftOver, left: Float[Tensor, "p 1"], pairs: list[tuple[Tensor, Tensor]]
) -> Float[Tensor, "p 1"]:
    """The two loops of L-BFGS."""
    weights = []
    for step, change in reversed(pairs):
        weight = (step * left).sum() / (step * change).sum()
        weights.append(weight)
        left = left - weight * change
    direction = left_over.solve(left).x
    for (step, change), weight in zip(pairs, reversed(weights)):
        direction = direction + (weight - (change * direction).sum() / (step * change).sum()) * step
    return direction


def _reasons(solution: Solution) -> frozenset[str]:
    return frozenset() if bool(solution.converged.all()) else frozenset([solution.reason])
