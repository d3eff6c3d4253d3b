"""Predict what an intervention does: first order, second order, or one Newton step with the curvature that
is left."""

from __future__ import annotations

import math
from collections.abc import Callable
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

Order = Literal["auto", "first", "second", "newton"]

_ORDERS = ("auto", "first", "second", "newton")


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
        UnsupportedError: `"second"` or `"newton"` with a solver that treats layers apart.
    """
    if order not in _ORDERS:
        raise InputError(f"order={order!r}: expected one of {', '.join(map(repr, _ORDERS))}")
    layered = isinstance(fitted.prepared, PreparedBlocks)
    if layered and order in ("second", "newton"):
        raise UnsupportedError(
            f"order={order!r} needs the curvature without the edited examples, which "
            f"solver={fitted.solver.name!r} does not have; use order='first', or fit with solver='cg' or "
            "'exact'"
        )
    chosen = ("first" if layered else "newton") if order == "auto" else order
    measured = resolve_measurement(measurement, fitted.objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    edited = EditedObjective(fitted, train, edits, reduction)
    d = edited.gradient_change()[:, None]
    single = fitted.solve(d)
    first, estimate, bound = _linear(fitted, gradients, single)
    solutions = [single]
    step = single.x
    values = first
    if chosen == "second":
        correction = fitted.solve(edited.curvature().matmat(step) - _whole(fitted).matmat(step))
        solutions.append(correction)
        step = step - correction.x
        more, estimate_too, bound_too = _linear(fitted, gradients, correction)
        values, estimate, bound = first - more, estimate + estimate_too, bound + bound_too
    elif chosen == "newton":
        newton, floor = _newton(fitted, edited, d)
        solutions.append(newton)
        step = newton.x
        _, estimate, bound = _linear(fitted, gradients, newton, floor)
        values = _measured(fitted, gradients, measured, -step[:, 0])
    moved = -step[:, 0]
    change = edited.gradient_at(fitted.objective.parameters.flat() + moved) - _gradient(fitted)
    remaining, _, _ = _linear(fitted, gradients, fitted.solve(change[:, None]))
    return Change(
        values=values,
        first=first,
        estimate=estimate,
        bound=bound,
        remaining=remaining,
        parameters=moved.cpu(),
        order=chosen,
        reduction=reduction,
        measurement=measured.name,
        converged=all(bool(solution.converged.all()) for solution in solutions),
        reason=" ".join(sorted({solution.reason for solution in solutions if solution.reason})),
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


def _newton(
    fitted: FittedInfluence, edited: EditedObjective, d: Float[Tensor, "p 1"]
) -> tuple[Solution, float]:
    """`C'_λ⁻¹ d`, and a lower bound of the eigenvalues of `C'_λ`. Preconditioned by the solver of `C_λ`,
    which a few examples change in a few directions only."""
    try:
        preconditioner = fitted.prepared.as_preconditioner()
    except UnsupportedError:  # an iterative solver, whose answer is no fixed linear map
        preconditioner = None
    rtol = 1e-10 if fitted.objective.dtype == torch.float64 else 1e-5
    solver = CG(rtol=rtol, preconditioner=preconditioner)
    try:
        prepared = solver.prepare(edited.curvature(), seed=fitted.options.seed)
        return prepared.solve(d), prepared.lower_bound
    except NotPositiveDefiniteError as error:
        raise NotPositiveDefiniteError(
            f"the curvature left after the intervention is not positive definite: {error} Or ask for "
            "order='first'.",
            eigenvalue=error.eigenvalue,
            damping=error.damping,
        ) from error


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
