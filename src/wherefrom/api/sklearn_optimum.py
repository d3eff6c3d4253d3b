"""Are these coefficients the optimum of the stated objective on these data, as far as the solver goes?

Sample weights, another `C`, a part of the data or other data leave one trace in a fitted estimator: the
gradient of its stated objective does not vanish. How small it must be is known: the solver stopped by its own
tolerance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.task import Objective

# A gradient of so many times what the solver stops at is not the solver's: where it looks at the gradient,
# and where it looks at something else.
_TIMES, _TIMES_OTHER = 2.0, 10.0
# L-BFGS also stops where a step lowers the objective by less than 64 eps, many steps before its end if the
# data are badly scaled, and rounding stops all others. A fall below so many eps of float64, or of the
# precision of the fit, as a share of the objective at zero coefficients, is not told from that.
_STALLED = 1e6
_STALLED_SINGLE = 1e2
_MOST_STALLED = 1e-2
# Of an exact factorisation, in units of rounding of the terms that cancel in the gradient.
_EXACT = 1e3
_CG_STEPS = 200
_CG_RTOL = 1e-3


@dataclass(frozen=True)
class _Left:
    """What is left over at the coefficients.

    Attributes:
        gradient: of the mean objective, weight rows with the bias as last column, `(c, d)`.
        at_zero: the same at zero coefficients.
        value_at_zero: the objective there.
        typical: the largest entry, by its root mean square, of an example's gradient.
    """

    gradient: Float[Tensor, "c d"]
    at_zero: Float[Tensor, "c d"]
    value_at_zero: float
    typical: float


class _Convex:
    """`J(W) = mean ℓ(X W) + ½ Σ α W²` of a linear model in float64, with its derivatives."""

    def __init__(self, objective: Objective, decay: dict[str, float]):
        batch = objective.examples.batch(slice(0, objective.n))
        self._loss, self.targets = objective.loss, objective.targets(batch)
        inputs: Tensor = batch[0]
        model: Any = objective.model
        ones = [torch.ones(len(inputs), 1, dtype=torch.float64)] if model.bias is not None else []
        self.wide = torch.cat([inputs.double(), *ones], 1)
        self.alpha = torch.full((self.wide.shape[1],), decay["weight"], dtype=torch.float64)
        parts = [model.weight.detach().double()]
        if model.bias is not None:
            self.alpha[-1] = decay["bias"]
            parts.append(model.bias.detach().double()[:, None])
        self.bias = model.bias is not None
        self.weights = torch.cat(parts, 1)
        self.outputs = self.wide @ self.weights.T

    def centred(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Inputs and targets of a regression without their means, where there is an intercept."""
        targets = self.targets.double()
        if self.bias:
            return self.wide[:, :-1] - self.wide[:, :-1].mean(0), targets - targets.mean(0)
        return self.wide, targets

    def value(self, outputs: Float[Tensor, "n c"]) -> float:
        """The mean loss."""
        return float(self._loss(outputs, self.targets).mean())

    def gradient(self, outputs: Float[Tensor, "n c"], weights: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
        """`∇J`."""
        return self._slopes(outputs).T @ self.wide / len(outputs) + self.alpha * weights

    def typical(self) -> float:
        """The largest entry of an example's gradient at the coefficients, by its root mean square."""
        squares = self._slopes(self.outputs).square().T @ self.wide.square() / len(self.wide)
        return float(squares.max().sqrt())

    def _slopes(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(self._loss(leaf, self.targets).sum(), leaf)
        return slopes

    def product(self, v: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
        """`∇²J v` at the coefficients."""
        tangents = self.wide @ v.T
        curved = self._loss.hessian_apply(tangents[None], self.outputs, self.targets)[0]
        return curved.T @ self.wide / len(tangents) + self.alpha * v

    def diagonal(self) -> Float[Tensor, " d"]:
        """A bound of the Hessian's diagonal: output curvatures are at most 1."""
        return self.wide.square().mean(0) + self.alpha + torch.finfo(torch.float64).tiny


def check_optimum(objective: Objective, decay: dict[str, float], fitted: Any) -> None:
    """Refuse an estimator that did not minimise its own objective on these data.

    The gradient left over must be more than its solver may leave when it stops; for an iterative fit of a
    classifier the objective must also fall, by a Newton step, by more than rounding explains.

    Args:
        objective: of the linear model with its coefficients and the data given.
        decay: `α` of weight and bias.
        fitted: the estimator.

    Raises:
        InputError: naming how far it is, and what may be the reason.
    """
    problem = _Convex(objective, decay)
    with torch.no_grad():
        zero = torch.zeros_like(problem.weights)
        nothing = torch.zeros_like(problem.outputs)
        left = _Left(
            problem.gradient(problem.outputs, problem.weights),
            problem.gradient(nothing, zero),
            problem.value(nothing),
            problem.typical(),
        )
        found, allowed, unit = _found_and_allowed(problem, left, fitted)
        if found <= allowed and math.isfinite(allowed):
            return
        if _newton_fall(problem, left.gradient) <= _least_fall(problem, fitted, left):
            return
    raise InputError(_words(fitted, found, allowed, unit))


def _found_and_allowed(problem: _Convex, left: _Left, fitted: Any) -> tuple[float, float, str]:
    """The gradient left over, what the solver leaves at most, and in what both are counted."""
    gradient = left.gradient
    largest, norm = float(gradient.abs().max()), float(gradient.norm())
    solver = getattr(fitted, "solver_", getattr(fitted, "solver", "exact"))
    tol = float(getattr(fitted, "tol", 0.0))
    if solver in ("sag", "saga"):
        least = 1.0 if hasattr(fitted, "classes_") else 0.0
        changes = max(least, left.typical, _per_epoch(problem, fitted))
        return largest, _TIMES_OTHER * tol * changes, "largest entry"
    if not hasattr(fitted, "classes_"):
        return norm, _least_squares_leaves(problem, fitted, solver, tol), "norm"
    if solver == "liblinear":
        # ‖∇f(w)‖ ≤ tol · min(n₊, n₋)/n · ‖∇f(0)‖ (LIBLINEAR, trust region Newton).
        positive = float((problem.targets > 0).double().sum())
        n = len(problem.wide)
        share = max(min(positive, n - positive), 1.0) / n
        return norm, _TIMES * tol * share * float(left.at_zero.norm()), "norm"
    return largest, max(_TIMES * tol, _rounding(problem, fitted)), "largest entry"


def _per_epoch(problem: _Convex, fitted: Any) -> float:
    """SAG and SAGA look at no gradient: they stop when no coefficient changes by more than `tol` of the
    largest in an epoch, which is `n` steps of `1/L` (SAGA: `1/3L`) along the gradient."""
    curved = 0.25 if hasattr(fitted, "classes_") else 1.0
    inputs = problem.wide if hasattr(fitted, "classes_") else problem.centred()[0]
    steepest = curved * float(inputs.square().sum(1).max()) + float(problem.alpha.max())
    return 3 * steepest / len(problem.wide) * float(problem.weights.abs().max())


def _rounding(problem: _Convex, fitted: Any) -> float:
    """Outputs are rounded in the precision of the fit, and the gradient with them."""
    size = problem.wide.square().mean(0).sqrt()
    outputs = float((problem.weights.square() @ size.square()).max().sqrt())
    return _TIMES_OTHER * _precision(fitted) * float(size.max()) * (1.0 + outputs)


def _least_squares_leaves(problem: _Convex, fitted: Any, solver: str, tol: float) -> float:
    """What Ridge and LinearRegression leave: rounding of a factorisation, or a relative residual of the
    normal equations, which are centred where there is an intercept."""
    rounding = _EXACT * _precision(fitted) * _cancelling(problem, problem.targets.double())
    if solver not in ("sparse_cg", "lsqr", "lbfgs"):
        return rounding
    centred, targets = problem.centred()
    return max(rounding, _TIMES_OTHER * tol * float(centred.norm() * targets.norm()) / len(targets))


def _cancelling(problem: _Convex, targets: Float[Tensor, "n c"]) -> float:
    """The size of the terms whose sum is the gradient."""
    n = len(problem.wide)
    columns = problem.wide.square().mean(0).sqrt()
    outputs = float((problem.weights.square() @ columns.square()).sum().sqrt())
    given = float(targets.norm()) / math.sqrt(n)
    return float(columns.norm()) * (outputs + given) + float((problem.alpha * problem.weights).norm())


def _least_fall(problem: _Convex, fitted: Any, left: _Left) -> float:
    """A fall of the objective that is not told from rounding."""
    double, own = torch.finfo(torch.float64).eps, _precision(fitted)
    share = _STALLED * double
    if own > double:
        # Where columns differ in scale, steps in the flat ones are lost in the rounding of the objective.
        diagonal = problem.diagonal()
        share = min(max(_STALLED_SINGLE, float(diagonal.max() / diagonal.min())) * own, _MOST_STALLED)
    # A factorisation knows what it leaves to rounding; the objective says no more.
    return share * left.value_at_zero if hasattr(fitted, "classes_") else 0.0


def _precision(fitted: Any) -> float:
    """`eps` of the coefficients: float32 data are fitted in float32."""
    kind = torch.as_tensor(fitted.coef_).dtype
    return float(torch.finfo(kind if kind.is_floating_point else torch.float64).eps)


def _newton_fall(problem: _Convex, gradient: Float[Tensor, "c d"]) -> float:
    """`½ gᵀH⁻¹g`, by which a Newton step would lower the objective, from below: conjugate gradients with the
    diagonal as preconditioner."""
    inverse = 1 / problem.diagonal()
    x, r = torch.zeros_like(gradient), gradient.clone()
    z = inverse * r
    direction, rho = z.clone(), float((r * z).sum())
    first = rho
    for _ in range(_CG_STEPS):
        if not rho > _CG_RTOL**2 * first:
            break
        product = problem.product(direction)
        curvature = float((direction * product).sum())
        if not curvature > 0:
            break
        x += rho / curvature * direction
        r -= rho / curvature * product
        z = inverse * r
        rho, before = float((r * z).sum()), rho
        direction = z + rho / before * direction
    return 0.5 * float((gradient * x).sum())


def _words(fitted: Any, found: float, allowed: float, unit: str) -> str:
    name = type(fitted).__name__
    causes = (
        "sample_weight or class_weight in its fit, which have no counterpart here; other data, or a part of "
        "them; features transformed (scaled) before its fit and not here; parameters such as C or alpha "
        "changed after it"
    )
    said = (
        f"{name}: its coefficients are not the optimum of its objective on this X, y: the gradient left over "
        f"({unit} {found:.2g}) is {found / allowed if allowed > 0 else math.inf:.2g} times the most that its "
        "solver may leave. "
    )
    taken = getattr(fitted, "n_iter_", None)
    most = getattr(fitted, "max_iter", None)
    if taken is not None and most is not None and int(max(taken)) >= int(most):
        return (
            f"{said}It had stopped at max_iter={int(most)} without converging: raise max_iter or scale the "
            f"features, and fit again. Otherwise: {causes}."
        )
    single = " or fit float64 data" if _precision(fitted) > torch.finfo(torch.float64).eps else ""
    early = f"a solver that stopped early (lower tol, or scale the features{single})"
    return f"{said}Likely reasons: {causes}; {early}."
