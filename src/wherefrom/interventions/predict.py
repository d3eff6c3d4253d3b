"""Predict what an intervention does: first order, second order, or one Newton step with the curvature that
is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

from wherefrom.arguments import choice
from wherefrom.errors import UnsupportedError
from wherefrom.influence import Fit, Measurement, resolve_measurement, trust_of
from wherefrom.interventions.change import Change
from wherefrom.interventions.edited_objective import EditedObjective, Reduction
from wherefrom.interventions.edits import Edits
from wherefrom.interventions.steps import Steps
from wherefrom.task import Data

Order = Literal["auto", "first", "second", "newton", "optimum"]


def predict_change(
    fitted: Fit,
    train: Data,
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
    * `"auto"`: the optimum where there is one to follow and the steps get there; first order where the solver
      in use treats layers apart (EK-FAC and its kin), whose curvature without some examples is not defined;
      Newton's step otherwise. `Change.order` says which.

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
    choice("order", order, get_args(Order))
    layered = fitted.prepared.approximates
    if layered and order in ("second", "newton", "optimum"):
        raise UnsupportedError(
            f"order={order!r} needs the curvature without the edited examples, which "
            f"solver={fitted.solver.name!r} does not have; use order='first', or fit with solver='cg' or "
            "'exact'"
        )
    one_optimum = fitted.engine.affine and fitted.objective.loss.convex
    if order == "optimum" and not one_optimum:
        raise UnsupportedError(
            "order='optimum' follows a convex objective to its one optimum, which takes outputs that are "
            "affine in the studied parameters (a linear head) and a convex loss; use order='newton', and "
            "retrain"
        )
    chosen = order
    if order == "auto":
        chosen = "first" if layered else "optimum" if one_optimum else "newton"
    measured = resolve_measurement(measurement, fitted.objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    steps = Steps(EditedObjective(fitted, train, edits, reduction), gradients, measured)
    first = step = steps.first()
    missed = ""
    if chosen == "second":
        step = steps.second(first)
    elif chosen == "newton":
        step = steps.newton()
    elif chosen == "optimum":
        step, missed = steps.optimum()
    # For "auto", Newton's step was a choice; for "optimum" it is a failure.
    reasons = first.reasons | step.reasons | ({missed} if missed and order == "optimum" else set())
    return Change(
        values=step.values,
        first=first.values,
        error=step.error,
        bound=step.bound,
        remaining=steps.remaining(step),
        parameters=-step.x[:, 0].cpu(),
        exact_curvature=fitted.curvature.is_hessian and not layered,
        order=step.order,
        reduction=reduction,
        measurement=measured.name,
        converged=not reasons,
        reason=" ".join(sorted(reasons)),
        words_done=", ".join(edits.words),
        settings=fitted.settings(),
        before=steps.before,
        range=measured.range,
        trust=trust_of(fitted, converged=not reasons),
    )
