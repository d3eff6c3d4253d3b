"""scikit-learn's linear models: the same objective, confirmed by their own refits."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.utils import shuffle

import wherefrom
from wherefrom.api import as_examples, as_task, refit
from wherefrom.api.from_sklearn import _GIVEN
from wherefrom.errors import InputError, UnsupportedError

N = 90
TIGHT = {"tol": 1e-12, "max_iter": 20_000}


def iris(classes: int):
    X, y = shuffle(*load_iris(return_X_y=True), random_state=0)
    if classes == 2:
        # Versicolor against virginica by their sepals: not separable, so an optimum exists in any case.
        X, y = X[y > 0, :2], y[y > 0]
    X = X - X.mean(0)
    names = np.array(["setosa", "versicolor", "virginica"])
    return X, names[y]


def diabetes():
    X, y = shuffle(*load_diabetes(return_X_y=True), random_state=0)
    return 10 * X, (y - y.mean()) / 100


ESTIMATORS = {
    "binary": (LogisticRegression(C=0.7, **TIGHT), iris(2)),
    "binary without intercept": (LogisticRegression(C=2.0, fit_intercept=False, **TIGHT), iris(2)),
    "binary without penalty": (LogisticRegression(C=np.inf, **TIGHT), iris(2)),
    "binary liblinear": (
        LogisticRegression(solver="liblinear", C=0.5, intercept_scaling=3.0, **TIGHT),
        iris(2),
    ),
    "multinomial": (LogisticRegression(C=0.7, **TIGHT), iris(3)),
    "multinomial without intercept": (LogisticRegression(C=0.3, fit_intercept=False, **TIGHT), iris(3)),
    "ridge": (Ridge(alpha=3.0), diabetes()),
    "ridge without intercept": (Ridge(alpha=0.5, fit_intercept=False), diabetes()),
    "least squares": (LinearRegression(), diabetes()),
}


def losses(fitted, X, y) -> np.ndarray:
    """Per-example losses from the estimator's own predictions."""
    if hasattr(fitted, "classes_"):
        columns = np.searchsorted(fitted.classes_, y)
        return -fitted.predict_log_proba(X)[np.arange(len(X)), columns]
    return 0.5 * (fitted.predict(X) - y) ** 2


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimators_optimum_is_the_objectives_and_its_predictions_are_the_models(name):
    estimator, (X, y) = ESTIMATORS[name]
    fitted = clone(estimator).fit(X[:N], y[:N])
    influence = wherefrom.from_sklearn(fitted, X[:N], y[:N], progress=False).fit()
    assert influence.minimum.verdict == "minimum"
    assert influence.minimum.relative_gradient < 1e-5
    task = as_task(fitted, X[:N], y[:N])
    inputs, targets = task.examples(X[N:], y[N:])
    ours = influence.objective.loss(task.model(inputs), targets).detach().numpy()
    np.testing.assert_allclose(ours, losses(fitted, X[N:], y[N:]), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_predicted_changes_match_refits_without_an_example(name):
    """Scores over `n` against scikit-learn's own fits without the example."""
    estimator, (X, y) = ESTIMATORS[name]
    N = 90 if hasattr(estimator, "C") else 400  # leverages of ten features must be small
    fitted = clone(estimator).fit(X[:N], y[:N])
    influence = wherefrom.from_sklearn(fitted, X[:N], y[:N], progress=False).fit()
    scores = influence.scores(as_examples(fitted, X[N : N + 8], y[N : N + 8]))
    before = losses(fitted, X[N : N + 8], y[N : N + 8])
    strongest = scores.values.abs().amax(0).argsort(descending=True)[:10:2].tolist()
    predicted, actual = [], []
    for i in strongest:
        kept = np.arange(N) != i
        again = clone(estimator).fit(X[:N][kept], y[:N][kept])
        actual.append(losses(again, X[N : N + 8], y[N : N + 8]) - before)
        predicted.append(scores.predicted_change[:, i].numpy())
    predicted, actual = np.array(predicted).ravel(), np.array(actual).ravel()
    assert np.corrcoef(predicted, actual)[0, 1] > 0.99
    assert 0.7 < (predicted @ actual) / (predicted @ predicted) < 1.5


def test_ridge_is_exact_up_to_the_leverage():
    """The change on removal is the predicted one divided by `1 − h_i`, the intercept's too."""
    X, y = diabetes()
    X, y = X[:40], y[:40]
    fitted = Ridge(alpha=2.0).fit(X, y)
    influence = wherefrom.from_sklearn(fitted, X, y, progress=False).fit()
    wide = np.hstack([X, np.ones((40, 1))])
    normal = wide.T @ wide + np.diag([2.0] * 10 + [0.0])
    for i in (0, 17, 33):
        leverage = wide[i] @ np.linalg.solve(normal, wide[i])
        kept = np.arange(40) != i
        again = Ridge(alpha=2.0).fit(X[kept], y[kept])
        change = np.append(again.coef_ - fitted.coef_, again.intercept_ - fitted.intercept_)
        predicted = -influence.parameter_influence([i])[0].numpy() / 40
        np.testing.assert_allclose(predicted / (1 - leverage), change, rtol=1e-6, atol=1e-12)


def test_several_targets():
    X, y = diabetes()
    both = np.stack([y, y**2], 1)[:N]
    fitted = Ridge(alpha=1.0).fit(X[:N], both)
    influence = wherefrom.from_sklearn(fitted, X[:N], both, progress=False).fit()
    assert influence.minimum.verdict == "minimum"
    made = influence.verify(
        as_examples(fitted, X[N : N + 4], np.stack([y, y**2], 1)[N : N + 4]),
        refit(fitted),
        remove=5,
        reduction="sum",
    )
    assert made.pearson() > 0.99 and made.baseline_gap < 1e-8


@pytest.mark.parametrize("name", ["binary", "multinomial", "ridge"])
def test_verify_with_the_estimators_own_refits(name):
    estimator, (X, y) = ESTIMATORS[name]
    fitted = clone(estimator).fit(X[:N], y[:N])
    influence = wherefrom.from_sklearn(fitted, X[:N], y[:N], progress=False).fit()
    queries = as_examples(fitted, X[N:], y[N:])
    made = influence.verify(queries, refit(fitted), remove=6, reduction="sum")
    assert made.pearson() > 0.99 and made.baseline_gap < 1e-6


def test_options_reach_influence():
    X, y = iris(2)
    fitted = LogisticRegression().fit(X, y)
    influence = wherefrom.from_sklearn(fitted, X, y, damping=0.5, solver=wherefrom.CG(), progress=False).fit()
    assert influence.settings()["damping"] == 0.5 and influence.settings()["solver"] == "cg"


REFUSED = [
    (LogisticRegression(class_weight="balanced"), "class_weight='balanced'"),
    (LogisticRegression(l1_ratio=0.5, solver="saga", max_iter=5000), "not differentiable"),
    (LogisticRegression(l1_ratio=1.0, solver="liblinear"), "not differentiable"),
    (Ridge(positive=True), "positive=True"),
    (LinearRegression(positive=True), "positive=True"),
    (ElasticNet(), "ElasticNet has no counterpart here; expected a LogisticRegression, Ridge"),
]


@pytest.mark.parametrize(("estimator", "found"), REFUSED)
def test_other_objectives_are_refused(estimator, found):
    X, y = iris(2) if isinstance(estimator, LogisticRegression) else diabetes()
    fitted = clone(estimator).fit(X, y)
    with pytest.raises(UnsupportedError, match=found):
        wherefrom.from_sklearn(fitted, X, y)


def test_sample_weights_are_refused_even_where_they_left_no_trace():
    X, y = iris(2)
    fitted = LogisticRegression(C=10.0, **TIGHT).fit(
        X, y, sample_weight=np.where(y == "virginica", 20.0, 1.0)
    )
    with pytest.raises(InputError, match=r"not the optimum of its objective on this X, y.*sample_weight"):
        wherefrom.from_sklearn(fitted, X, y)
    with pytest.raises(UnsupportedError, match="sample_weight is not supported"):
        wherefrom.from_sklearn(fitted, X, y, sample_weight=np.ones(len(X)))


def test_it_takes_every_option_of_an_influence_function_with_the_same_default():
    """All but those that the estimator decides; the damping follows the objective."""
    whole = inspect.signature(wherefrom.Influence).parameters
    own = inspect.signature(wherefrom.from_sklearn).parameters
    taken = set(own) - {"fitted", "X", "y", "refused"}
    assert taken == set(whole) - {"model", "train"} - set(_GIVEN)
    for name in taken - {"damping"}:
        assert own[name].default == whole[name].default, name
        assert own[name].annotation == whole[name].annotation, name


def test_bad_arguments_are_refused():
    X, y = iris(2)
    fitted = LogisticRegression(**TIGHT).fit(X, y)
    with pytest.raises(InputError, match=r"not fitted yet: call \.fit\(X, y\) first"):
        wherefrom.from_sklearn(LogisticRegression(), X, y)
    with pytest.raises(InputError, match=r"X has shape \(100, 1\); expected \(n, 2\)"):
        wherefrom.from_sklearn(fitted, X[:, :1], y)
    with pytest.raises(InputError, match="X has 100 examples and y 99"):
        wherefrom.from_sklearn(fitted, X, y[:-1])
    with pytest.raises(
        InputError,
        match=r"train: the label of example 4 is 'setosa'.*its classes_, 'versicolor', 'virginica'",
    ):
        wherefrom.from_sklearn(fitted, X, np.where(np.arange(100) == 4, "setosa", y))
    with pytest.raises(InputError, match="loss= is given by the estimator"):
        wherefrom.from_sklearn(fitted, X, y, loss="cross_entropy")
    with pytest.raises(TypeError, match="unexpected keyword argument 'dampign'"):
        wherefrom.from_sklearn(fitted, X, y, dampign=0.1)
    with pytest.raises(InputError, match="sparse"):
        import scipy.sparse

        wherefrom.from_sklearn(fitted, scipy.sparse.csr_matrix(X), y)
    with pytest.raises(InputError, match="no unique solution"):
        A, b = diabetes()
        wherefrom.from_sklearn(LinearRegression().fit(A[:8], b[:8]), A[:8], b[:8])
    with pytest.raises(InputError, match="class without examples"):
        inputs, targets = as_examples(fitted, X, y)
        refit(fitted)((inputs[targets == "virginica"], targets[targets == "virginica"]), 0)


def test_labels_follow_the_estimators_classes():
    X, y = iris(3)
    fitted = LogisticRegression(**TIGHT).fit(X, y)
    _, numbers = as_task(fitted, X, y).examples(X[:5], y[:5])
    assert numbers.dtype == torch.int64
    assert [fitted.classes_[i] for i in numbers] == list(y[:5])
    assert list(as_examples(fitted, X[:5], y[:5])[1]) == list(y[:5])


def test_a_recipe_takes_class_numbers_where_the_training_set_holds_them():
    X, y = iris(3)
    fitted = LogisticRegression(**TIGHT).fit(X, y)
    task = as_task(fitted, X, y)
    again = refit(fitted)(task.train, 0)
    torch.testing.assert_close(again.weight, task.model.weight, rtol=1e-5, atol=1e-7)
