"""scikit-learn's linear models as a torch model, a loss and a weight decay: the same objective, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whence.errors import InputError, UnsupportedError
from whence.task import Objective

# Where parameters are not regularised, directions that the outputs do not depend on (all class scores
# shifted together) have no curvature. This share of the smallest weight decay keeps C invertible there and
# changes scores by no more than the same share.
_GAUGE_DAMPING = 1e-6
# A fit that is further from the optimum of its stated objective than this was made with another one.
_FOREIGN_GRADIENT = 0.1


@dataclass(frozen=True)
class SklearnTask:
    """A fitted estimator in the terms of `Objective`.

    Attributes:
        model: `nn.Linear` with the estimator's coefficients, float64, in evaluation mode.
        train: `(inputs, targets)`.
        loss: name of the loss.
        weight_decay: `α` of weight and bias.
        damping: `0` where the objective is strictly convex by its form, else a very small number.
    """

    model: nn.Linear
    train: tuple[Tensor, Tensor]
    loss: str
    weight_decay: dict[str, float]
    damping: float


def as_task(fitted: Any, X: Any, y: Any) -> SklearnTask:
    """The objective that `fitted` minimised on `X, y`, divided so that the loss is a mean over examples.

    | estimator | its objective | loss | `α` of the weight |
    | --- | --- | --- | --- |
    | `LogisticRegression` | `C Σ ℓ_i + ½‖w‖²` | cross-entropy | `1/(C n)` |
    | `Ridge` | `‖y − Xw − b‖² + a‖w‖²` | `½(f − y)²` | `a/n` |
    | `LinearRegression` | `‖y − Xw − b‖²` | `½(f − y)²` | 0 |

    The intercept is not regularised, except by `solver="liblinear"`, where it counts as the weight of a
    constant feature `s = intercept_scaling` and so has the weight decay `1/(C n s²)`.

    Args:
        fitted: a fitted `LogisticRegression`, `Ridge` or `LinearRegression`.
        X: the training inputs, `(n, d)`, dense.
        y: the training targets as they were given to `fit`.

    Raises:
        UnsupportedError: another estimator or an option whose objective has no counterpart here.
        InputError: not fitted, wrong shapes, or coefficients that are not the optimum for `X, y` (another
            data set, sample weights, or a solver that stopped early).
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

    kinds: dict[type, Callable[[Any, int], tuple[str, float, float]]] = {
        LogisticRegression: _logistic,
        Ridge: _ridge,
        LinearRegression: _least_squares,
    }
    if type(fitted) not in kinds:
        raise UnsupportedError(
            f"{type(fitted).__name__} has no counterpart here; expected a LogisticRegression, Ridge or "
            "LinearRegression. For a pipeline pass its last step, and X as the steps before transform it."
        )
    if not hasattr(fitted, "coef_"):
        raise InputError(f"{type(fitted).__name__} is not fitted yet: call .fit(X, y) first")
    train = as_examples(fitted, X, y)
    loss, weight_alpha, bias_alpha = kinds[type(fitted)](fitted, len(train[0]))
    model = _linear(fitted)
    decay = {"weight": weight_alpha}
    if model.bias is not None:
        decay["bias"] = bias_alpha
    task = SklearnTask(model, train, loss, decay, _damping(model, train[0], decay))
    _check_optimum(task, fitted)
    return task


def as_examples(fitted: Any, X: Any, y: Any) -> tuple[Tensor, Tensor]:
    """`X, y` as tensors: labels become class numbers in the order of `fitted.classes_` (floats 0 and 1
    for two classes).

    Raises:
        InputError: wrong shapes, a sparse matrix, or a label that the estimator has not seen.
    """
    if hasattr(X, "toarray"):
        raise InputError(
            "X is a sparse matrix; expected a dense array. Pass X.toarray() if it fits in memory."
        )
    inputs = torch.tensor(np.asarray(X, dtype=np.float64))
    features = int(fitted.n_features_in_)
    if inputs.ndim != 2 or inputs.shape[1] != features:
        raise InputError(
            f"X has shape {tuple(inputs.shape)}; expected (n, {features}), the features that were fitted"
        )
    targets = np.asarray(y)
    if len(targets) != len(inputs):
        raise InputError(
            f"X has {len(inputs)} examples and y {len(targets)}; expected one target per example"
        )
    if not hasattr(fitted, "classes_"):
        return inputs, torch.tensor(targets.astype(np.float64)).reshape(len(inputs), -1)
    unseen = ~np.isin(targets, fitted.classes_)
    if targets.ndim != 1 or bool(unseen.any()):
        found = targets[unseen][0] if targets.ndim == 1 else f"shape {targets.shape}"
        raise InputError(f"y holds {found!r}; expected labels among {list(fitted.classes_)}, shape (n,)")
    numbers = torch.tensor(np.searchsorted(fitted.classes_, targets))
    return inputs, numbers.double()[:, None] if len(fitted.classes_) == 2 else numbers


def refit(fitted: Any) -> Callable[[Any, int], nn.Module]:
    """A recipe that fits a clone of the estimator to what is left of the training set.

    For `verify(reduction="sum")`: scikit-learn adds losses up, so the others keep their weight when an
    example is left out.

    Raises:
        InputError, by the recipe: a class has no example left.
    """
    from sklearn.base import clone

    def recipe(train: tuple[Tensor, Tensor], seed: int) -> nn.Module:
        inputs, targets = train
        again = clone(fitted)
        if "random_state" in again.get_params():
            again.set_params(random_state=seed)
        if hasattr(fitted, "classes_"):
            labels = fitted.classes_[targets.long().reshape(-1).numpy()]
            if len(np.unique(labels)) < len(fitted.classes_):
                raise InputError(
                    "removing this example leaves a class without examples: the model would change its shape"
                )
        else:
            labels = targets.numpy() if fitted.coef_.ndim == 2 else targets[:, 0].numpy()
        again.fit(inputs.numpy(), labels)
        return _linear(again)

    return recipe


def _linear(fitted: Any) -> nn.Linear:
    weight = torch.tensor(np.atleast_2d(np.asarray(fitted.coef_, dtype=np.float64)))
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(fitted.fit_intercept), dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weight)
        if model.bias is not None:
            model.bias.copy_(torch.tensor(np.atleast_1d(np.asarray(fitted.intercept_, dtype=np.float64))))
    return model.eval()


def _logistic(fitted: Any, n: int) -> tuple[str, float, float]:
    if fitted.class_weight is not None:
        raise UnsupportedError(
            f"class_weight={fitted.class_weight!r} is not supported: refit with class_weight=None, or give "
            "the same model to Influence with loss=CrossEntropy(class_weights=...)."
        )
    penalty = getattr(fitted, "penalty", "l2")
    mixed = getattr(fitted, "l1_ratio", None)
    if penalty not in ("l2", None, "none", "deprecated") or (
        penalty == "deprecated" and mixed not in (0, None)
    ):
        raise UnsupportedError(
            f"penalty={penalty!r}, l1_ratio={mixed!r} is not differentiable: influence needs an L2 penalty "
            "or none. Refit with l1_ratio=0 (or penalty='l2')."
        )
    several = len(fitted.classes_) > 2
    if several and (fitted.solver == "liblinear" or getattr(fitted, "multi_class", "auto") == "ovr"):
        raise UnsupportedError(
            "one-versus-rest fits one model per class: refit with solver='lbfgs' for a softmax, or pass one "
            "class's labels at a time"
        )
    none = penalty in (None, "none") or math.isinf(fitted.C)
    weight = 0.0 if none else 1 / (fitted.C * n)
    bias = weight / float(fitted.intercept_scaling) ** 2 if fitted.solver == "liblinear" else 0.0
    return "cross_entropy" if several else "binary_cross_entropy", weight, bias


def _ridge(fitted: Any, n: int) -> tuple[str, float, float]:
    if fitted.positive:
        raise UnsupportedError(
            "positive=True constrains the coefficients: influence needs an unconstrained optimum"
        )
    alpha = np.unique(np.asarray(fitted.alpha, dtype=np.float64))
    if len(alpha) != 1:
        raise UnsupportedError(
            f"alpha={fitted.alpha!r}: one number for all targets is supported; pass one target at a time"
        )
    return "squared_error", float(alpha[0]) / n, 0.0


def _least_squares(fitted: Any, n: int) -> tuple[str, float, float]:
    if fitted.positive:
        raise UnsupportedError(
            "positive=True constrains the coefficients: influence needs an unconstrained optimum"
        )
    if n < fitted.n_features_in_ + int(fitted.fit_intercept):
        raise InputError(
            f"LinearRegression with {n} examples and {fitted.n_features_in_} features has no unique "
            "solution: use Ridge, or fewer features"
        )
    return "squared_error", 0.0, 0.0


def _damping(model: nn.Linear, inputs: Tensor, decay: Mapping[str, float]) -> float:
    """Zero where every direction has curvature; otherwise far below every curvature that matters."""
    if model.out_features == 1 or all(alpha > 0 for alpha in decay.values()):
        return 0.0
    smallest = min((alpha for alpha in decay.values() if alpha > 0), default=None)
    return _GAUGE_DAMPING * (smallest if smallest is not None else 1e-3 * float(inputs.square().mean()))


def _check_optimum(task: SklearnTask, fitted: Any) -> None:
    """Sample weights leave no trace in a fitted estimator but this one: its gradient does not vanish."""
    objective = Objective(task.model, task.train, loss=task.loss, weight_decay=task.weight_decay)
    with torch.no_grad():
        inputs, _ = task.train
        slopes = _output_gradients(objective)
        ones = [torch.ones(len(inputs), 1, dtype=torch.float64)] if task.model.bias is not None else []
        wide = torch.cat([inputs, *ones], 1)
        typical = (slopes.square().sum(1) * wide.square().sum(1)).mean().sqrt()
        mean = slopes.T @ wide / len(inputs)
        mean[:, : inputs.shape[1]] += task.weight_decay["weight"] * task.model.weight
        if task.model.bias is not None:
            mean[:, -1] += task.weight_decay["bias"] * task.model.bias
        relative = float(mean.norm() / typical) if float(typical) > 0 else 0.0
    if not relative <= _FOREIGN_GRADIENT:
        raise InputError(
            f"{type(fitted).__name__}: its coefficients are not the optimum for this X, y (the gradient left "
            f"over is {relative:.0%} of a typical example's). Pass the data it was fitted to; if "
            "sample_weight was used, it has no counterpart here; if the solver stopped early, raise "
            "max_iter or scale the features."
        )


def _output_gradients(objective: Objective) -> Tensor:
    """`∇_f ℓ_i`, `(n, c)`."""
    batch = objective.examples.batch(slice(0, objective.n))
    leaf = objective.outputs(objective.parameters.values, batch).detach().requires_grad_()
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(objective.loss(leaf, objective.targets(batch)).sum(), leaf)
    return slopes
