"""scikit-learn's linear models as a torch model, a loss and a weight decay: the same objective, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wherefrom.api.sklearn_form import SklearnForm
from wherefrom.api.sklearn_optimum import check_optimum
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.task import Objective

# Where parameters are not regularised, directions that the outputs do not depend on (all class scores
# shifted together) have no curvature. This share of the smallest weight decay keeps C invertible there and
# changes scores by no more than the same share.
_GAUGE_DAMPING = 1e-6


@dataclass(frozen=True)
class SklearnTask:
    """A fitted estimator in the terms of `Objective`.

    Attributes:
        model: `nn.Linear` with the estimator's coefficients, float64, in evaluation mode.
        train: `(inputs, targets)` as tensors, labels as class numbers.
        loss: name of the loss.
        weight_decay: `α` of weight and bias.
        damping: `0` where the objective is strictly convex by its form, else a very small number.
        form: reads data with the user's labels, and knows these.
        given: the training data as arrays, with the user's labels.
    """

    model: nn.Linear
    train: tuple[Tensor, Tensor]
    loss: str
    weight_decay: dict[str, float]
    damping: float
    form: SklearnForm
    given: tuple[np.ndarray, np.ndarray]

    def examples(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Other examples as tensors of `train`'s form, for an `Influence` that is built on `train`: class
        numbers in the order of `classes_`, zeros and ones for two classes.

        Raises:
            InputError: wrong shapes, a sparse matrix, or a label that the estimator has not seen.
        """
        return self.form.read((X, y), "examples")


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
        y: the training targets as they were given to `fit`: labels of any kind, not class numbers.

    Raises:
        UnsupportedError: another estimator or an option whose objective has no counterpart here.
        InputError: not fitted, wrong shapes, a label that is not among `classes_`, or coefficients that are
            not the optimum for `X, y` as far as its solver's tolerance goes (sample weights, a part of the
            data, other data, or a solver that stopped early).
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
    form = SklearnForm(fitted)
    given = form.columns((X, y), "train")
    train = form.read(given, "train")
    loss, weight_alpha, bias_alpha = kinds[type(fitted)](fitted, len(train[0]))
    model = _linear(fitted)
    decay = {"weight": weight_alpha}
    if model.bias is not None:
        decay["bias"] = bias_alpha
    check_optimum(Objective(model, train, loss=loss, weight_decay=decay), decay, fitted)
    return SklearnTask(model, train, loss, decay, _damping(model, train[0], decay), form, given)


def as_examples(fitted: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """`X, y` checked, as arrays: what an `Influence` of `from_sklearn` and the recipe of `refit` take, as
    they take `(X, y)` itself. Labels stay the user's.

    Raises:
        InputError: wrong shapes, a sparse matrix, or a label that the estimator has not seen.
    """
    return SklearnForm(fitted).columns((X, y), "examples")


def refit(fitted: Any) -> Callable[[Any, int], nn.Module]:
    """A recipe that fits a clone of the estimator to what is left of the training set.

    For `verify(reduction="sum")`: scikit-learn adds losses up, so the others keep their weight when an
    example is left out. It takes `(X, y)` with the user's labels, and the tensors of `SklearnTask.train`.

    Raises:
        InputError, by the recipe: a class has no example left.
    """
    from sklearn.base import clone

    form = SklearnForm(fitted)

    def recipe(train: Any, seed: int) -> nn.Module:
        inputs, labels = form.columns(_with_labels(fitted, train), "train")
        again = clone(fitted)
        if "random_state" in again.get_params():
            again.set_params(random_state=seed)
        if form.classes is not None and len(set(labels.tolist())) < len(form.classes):
            raise InputError(
                "removing this example leaves a class without examples: the model would change its shape"
            )
        again.fit(inputs, labels)
        return _linear(again)

    return recipe


def _with_labels(fitted: Any, train: Any) -> Any:
    """Data with the user's labels; class numbers are known by being tensors of `SklearnTask.train`'s form."""
    numbers = isinstance(train, tuple) and len(train) == 2 and isinstance(train[1], Tensor)
    if not numbers or not hasattr(fitted, "classes_"):
        return train
    return train[0], fitted.classes_[train[1].long().reshape(-1).numpy()]


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
