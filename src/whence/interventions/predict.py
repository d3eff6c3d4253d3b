"""Predict what an intervention does: first order, second order, or one Newton step with the curvature that
is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from whence.errors import InputError, NotPositiveDefiniteError, UnsupportedError
from whence.gradients import ExampleGradients
from whence.influence import FittedInfluence, Measurement, resolve_measurement
from whence.interventions.change import Change
from whence.interventions.edited_objective import EditedObjective, Reduction
from whence.interventions.edits import Edits
from whence.linalg import LinearOperator
from whence.solvers import CG, PreparedBlocks, Solution
from whence.task import TrainingData

Order = Literal["auto", "first", "second", "newton", "optimum"]

_ORDERS = ("auto", "first", "second", "newton", "optimum")
# Steps towards the optimum, and the share of the whole way at which a step is too small to matter.
_MOST_STEPS = 100
_SETTLED = {torch.float64: 1e-9, torch.float32: 1e-5}


def predict_change(
    fitted: FittedInfluence,
    train: TrainingData,
    edits: Edits,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    order: Order = "auto",
    reduction: Reduction = "mean",
) -> Change:
    """The predicted change of a measurement on every query.

    With `d = ∇J'(θ̂) − ∇J(θ̂)` and `C'_λ` the curvature of the edited objective:

    * `"first"`: `Δθ = −C_λ⁻¹ d` and `Δm = ∇mᵀΔθ` (Koh & Liang 2017, §2; any edit, §2.2).
    * `"second"`: `Δθ = −C_λ⁻¹ d + C_λ⁻¹ (C'_λ − C_λ) C_λ⁻¹ d`, the next term in the size of the group
      (Basu et al. 2020, §4, without third derivatives).
    * `"newton"`: `Δθ = −C'_λ⁻¹ d`, and `Δm = m(θ̂ + Δθ) − m(θ̂)`, not linearised. Exact for ridge regression;
      for one removal from a generalised linear model it is the division by one minus the leverage.
    * `"optimum"`: steps with `C'_λ⁻¹` until the gradient of `J'` vanishes: retraining without a recipe, for
      models whose outputs are affine in the parameters, with a convex loss.
    * `"auto"`: Newton's step, but first order where the solver in use treats layers apart (EK-FAC and its
      kin), whose curvature without some examples is not defined.

    Args:
        fitted: the fitted influence function.
        train: the training set.
        edits: the intervention.
        queries: where the change is predicted.
        measurement: what is measured on a query.
        order: of the prediction.
        reduction: `"mean"` for a recipe that averages over what is left, `"sum"` for one that keeps the
            weights `1/n`.

    Raises:
        InputError: an empty intervention, a label outside the classes, a class of which nothing is left,
            unknown `order` or `reduction`, bad queries.
        NotPositiveDefiniteError: the curvature left after the intervention is not positive definite.
        UnsupportedError: an order beyond the first with a solver that treats layers apart, or `"optimum"` for
            a model that is not affine or a loss that is not convex.
    """
    if order not in _ORDERS:
        raise InputError(f"order={order!r}: expected one of {', '.join(map(repr, _ORDERS))}")
    layered = isinstance(fitted.prepared, PreparedBlocks)
    if layered and order in ("second", "newton", "optimum"):
        raise UnsupportedError(
            f"order={order!r} needs the curvature without the edited examples, which "
            f"solver={fitted.solver.name!r} does not have; use order='first', or fit with solver='cg' or "
            "'exact'"
        )
    if order == "optimum" and not (fitted.engine.affine and fitted.objective.loss.convex):
        raise UnsupportedError(
            "order='optimum' follows a convex objective to its one optimum, which takes outputs that are "
            "affine in the studied parameters (a linear head) and a convex loss; use order='newton', and "
            "retrain"
        )
    chosen = ("first" if layered else "newton") if order == "auto" else order
    measured = resolve_measurement(measurement, fitted.objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    edited = EditedObjective(fitted, train, edits, reduction)
    d = edited.gradient_change()[:, None]
    single = fitted.solve(d)
    first, estimate, bound = _linear(fitted, gradients, single)
    solutions, reasons = [single], set()
    step = single.x
    values = first
    if chosen == "second":
        correction = fitted.solve(edited.curvature().matmat(step) - _whole(fitted).matmat(step))
        solutions.append(correction)
        step = step - correction.x
        more, estimate_too, bound_too = _linear(fitted, gradients, correction)
        values, estimate, bound = first - more, estimate + estimate_too, bound + bound_too
    elif chosen in ("newton", "optimum"):
        left_over = _LeftOver(fitted, edited)
        newton = left_over.solve(d)
        solutions.append(newton)
        step = newton.x
        _, estimate, bound = _linear(fitted, gradients, newton, left_over.lower_bound)
        if chosen == "optimum":
            step, reason = _to_optimum(edited, left_over, step)
            reasons.add(reason)
        values = _measured(fitted, gradients, measured, -step[:, 0])
    more = _one_more(edited, step)
    remaining = _measured(fitted, gradients, measured, -(step + more)[:, 0]) - values
    reasons |= {solution.reason for solution in solutions}
    return Change(
        values=values,
        first=first,
        estimate=estimate,
        bound=bound,
        remaining=remaining,
        parameters=-step[:, 0].cpu(),
        exact_curvature=fitted.curvature.is_hessian and not layered,
        order=chosen,
        reduction=reduction,
        measurement=measured.name,
        converged=not any(reasons) and all(bool(solution.converged.all()) for solution in solutions),
        reason=" ".join(sorted(reason for reason in reasons if reason)),
        words_done=", ".join(edits.words),
        settings=fitted.settings(),
    )


def _whole(fitted: FittedInfluence) -> LinearOperator:
    return fitted.damping.add_to(fitted.curvature.operator)


def _gradient(fitted: FittedInfluence) -> Float[Tensor, " p"]:
    """`∇J(θ̂)`, which need not vanish."""
    objective = fitted.objective
    mean = fitted.train_gradients.mean() + objective.regulariser.gradient().double()
    return mean.to(objective.dtype)


class _LeftOver:
    """`C'_λ⁻¹` by conjugate gradients, preconditioned by the solver of `C_λ` where that is a fixed map: a few
    examples change it in a few directions only."""

    def __init__(self, fitted: FittedInfluence, edited: EditedObjective):
        try:
            preconditioner = fitted.prepared.as_preconditioner()
        except UnsupportedError:  # an iterative solver's answer is none
            preconditioner = None
        rtol = 1e-10 if fitted.objective.dtype == torch.float64 else 1e-5
        solver = CG(rtol=rtol, preconditioner=preconditioner)
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


def _gradient_left(edited: EditedObjective, step: Float[Tensor, "p 1"]) -> Float[Tensor, "p 1"]:
    """`∇J'(θ̂ − step) − ∇J(θ̂)`: what still drives the parameters."""
    objective = edited.fitted.objective
    at = edited.gradient_at(objective.parameters.flat() - step[:, 0])
    return (at - _gradient(edited.fitted))[:, None]


def _one_more(edited: EditedObjective, step: Float[Tensor, "p 1"]) -> Float[Tensor, "p 1"]:
    """The next step with `C_λ`, as long as the objective falls along it: where the curvature in use is
    smaller than the objective's own (a Gauss-Newton matrix of a network), the whole of it is too long."""
    left = _gradient_left(edited, step)
    more = edited.fitted.solve(left).x
    slope, after = float((more * left).sum()), float((more * _gradient_left(edited, step + more)).sum())
    return more * (slope / (slope - after)) if slope > 0 > after else more


def _to_optimum(
    edited: EditedObjective, left_over: _LeftOver, step: Float[Tensor, "p 1"]
) -> tuple[Float[Tensor, "p 1"], str]:
    """Chord steps from the first one on, for as long as they get shorter; and why they ended early, if they
    did."""
    settled = _SETTLED[step.dtype] * float(step.norm())
    last = math.inf
    for _ in range(_MOST_STEPS):
        more = left_over.solve(_gradient_left(edited, step)).x
        size = float(more.norm())
        if not size < last:
            return step, (
                "The steps towards the optimum stopped getting shorter: the edit is too large for steps with "
                "one curvature. Retrain instead."
            )
        step, last = step + more, size
        if size <= settled:
            return step, ""
    return step, f"The optimum was not reached in {_MOST_STEPS} steps. Retrain instead."


def _linear(
    fitted: FittedInfluence, gradients: ExampleGradients, solution: Solution, floor: float | None = None
) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"], Float[Tensor, " q"]]:
    """`−∇m_qᵀ x` with its expected error and its bound."""
    r = solution.error_directions.shape[0]
    directions = torch.cat([solution.x, solution.error_directions[:, :, 0].T], dim=1)
    values, estimates, bounds = [], [], []
    for _, inner, norms in gradients.products(directions):
        values.append(-inner[:, 0])
        errors = inner[:, 1 : 1 + r].norm(dim=1)
        estimates.append(torch.hypot(errors, fitted.rounding_estimate(solution, norms)[0]))
        bounds.append(fitted.score_bound(solution, norms, floor)[0].to(inner.dtype))
    if isinstance(fitted.prepared, PreparedBlocks):
        bounds = [torch.full_like(bound, math.inf) for bound in bounds]
        estimates = bounds
    return torch.cat(values).cpu(), torch.cat(estimates).cpu(), torch.cat(bounds).cpu()


def _measured(
    fitted: FittedInfluence, gradients: ExampleGradients, measured: Measurement, moved: Float[Tensor, " p"]
) -> Float[Tensor, " q"]:
    """`m_q(θ̂ + Δθ) − m_q(θ̂)`."""
    objective = fitted.objective
    before = objective.parameters.values
    after = objective.parameters.unflatten(objective.parameters.flat() + moved)
    parts = []
    with torch.no_grad():
        for _, batch in gradients.examples.batches(max(fitted.engine.batch_size, 256)):
            targets = objective.targets(batch)
            new = measured.function(objective.outputs(after, batch), targets)
            parts.append(new - measured.function(objective.outputs(before, batch), targets))
    return torch.cat(parts).cpu()
