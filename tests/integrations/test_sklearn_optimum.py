"""Coefficients that are not the optimum for these data are refused; those that a solver left are not."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from wherefrom.api import as_task
from wherefrom.errors import InputError

SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky", "liblinear", "sag", "saga")
RIDGE = ("auto", "svd", "lsqr", "sparse_cg", "sag", "saga")


def data(n: int, d: int, classes: int, scale: str):
    rng = np.random.default_rng(n + d + classes)
    X = rng.normal(size=(n, d))
    y = (X @ rng.normal(size=(d, classes)) + 1.5 * rng.gumbel(size=(n, classes))).argmax(1)
    if scale == "wide":
        X = X * 10.0 ** rng.uniform(-2, 2, size=d) + 3
    return X * 1e-3 if scale == "small" else X, y


def converged(estimator, X, y, **options):
    """A fit that ended without a warning, or `None`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return estimator.fit(X, y, **options)
        except (ConvergenceWarning, RuntimeWarning, UserWarning, ValueError):
            return None


@pytest.mark.parametrize("solver", SOLVERS)
def test_fits_of_every_solver_at_its_default_tolerance_are_taken(solver):
    counted = 0
    for C, scale, (n, d, classes) in itertools.product(
        (1e-4, 1.0, 1e4), ("unit", "wide", "small"), ((30, 3, 2), (200, 10, 2), (200, 10, 4))
    ):
        if solver == "liblinear" and classes > 2:
            continue
        X, y = data(n, d, classes, scale)
        fitted = converged(LogisticRegression(C=C, solver=solver, random_state=0), X, y)
        if fitted is not None:
            counted += 1
            as_task(fitted, X, y)
    assert counted >= 12


@pytest.mark.parametrize("solver", RIDGE)
def test_ridge_of_every_solver_is_taken(solver):
    for alpha, scale, (n, d) in itertools.product(
        (1e-6, 1.0), ("unit", "wide"), ((20, 3), (300, 20), (50, 200))
    ):
        X, _ = data(n, d, 2, scale)
        y = (X / X.std(0)).sum(1) + np.random.default_rng(1).normal(size=n) + 3
        fitted = converged(Ridge(alpha=alpha, solver=solver, random_state=0), X, y)
        if fitted is not None:
            as_task(fitted, X, y)
        if solver == "auto" and n > d:
            as_task(LinearRegression().fit(X, y), X, y)
            single = X.astype(np.float32), y.astype(np.float32)
            as_task(Ridge(alpha=alpha).fit(*single), *single)


def foreign(make, X, y, n):
    """Fits on something else than `X, y` as given, by what is else."""
    few = min(n // 10, 20)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, n)
    yield "weights", make().fit(X, y, sample_weight=np.where(np.arange(n) % 3 == 0, 5.0, 1.0)), X, y
    yield "mild weights", make().fit(X, y, sample_weight=weights), X, y
    yield "a half of the data", make().fit(X, y), X[: n // 2], y[: n // 2]
    yield "all but a tenth", make().fit(X, y), X[:-few], y[:-few]
    yield "fewer than given", make().fit(X[:-few], y[:-few]), X, y
    yield "scaled", make().fit((X - X.mean(0)) / (2 * X.std(0)), y), X, y
    yield "other targets", make().fit(X, y[::-1].copy()), X, y


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_fitted_to_something_else_is_refused(solver, classes):
    if solver == "liblinear" and classes > 2:
        pytest.skip("one-versus-rest is refused by name")
    X, y = data(150, 4, classes, "unit")
    for what, fitted, inputs, labels in foreign(
        lambda: LogisticRegression(solver=solver, max_iter=2000, random_state=0), X, y, 150
    ):
        with pytest.raises(
            InputError, match=r"not the optimum of its objective.*sample_weight.*part of them"
        ):
            as_task(fitted, inputs, labels)
            pytest.fail(what)
    balanced = LogisticRegression(solver=solver, class_weight="balanced", max_iter=2000).fit(X, y)
    with pytest.raises(InputError, match="class_weight"):
        as_task(balanced.set_params(class_weight=None), X, y)
    other = LogisticRegression(solver=solver, C=0.05, max_iter=2000).fit(X, y)
    with pytest.raises(InputError, match="parameters such as C or alpha changed after it"):
        as_task(other.set_params(C=0.5), X, y)


@pytest.mark.parametrize("make", [Ridge, LinearRegression, lambda: Ridge(solver="lsqr")])
def test_a_regression_fitted_to_something_else_is_refused(make):
    X, _ = data(150, 4, 2, "unit")
    y = X @ [1.0, 2.0, 3.0, 4.0] + np.random.default_rng(1).normal(size=150)
    for what, fitted, inputs, targets in foreign(make, X, y, 150):
        with pytest.raises(InputError, match="not the optimum of its objective"):
            as_task(fitted, inputs, targets)
            pytest.fail(what)


def test_a_solver_that_stopped_early_is_told_so():
    X, y = data(200, 10, 2, "wide")
    with pytest.warns(ConvergenceWarning):
        fitted = LogisticRegression(C=1e4, max_iter=5).fit(X, y)
    with pytest.raises(
        InputError, match=r"stopped at max_iter=5 without converging: raise max_iter or scale"
    ):
        as_task(fitted, X, y)


def test_single_precision_that_stopped_early_is_told_so():
    X, y = data(200, 10, 2, "unit")
    X = (X * 10.0 ** np.random.default_rng(0).uniform(-3, 3, size=10)).astype(np.float32)
    fitted = LogisticRegression(C=1e4, max_iter=1000).fit(X, y)
    with pytest.raises(InputError, match="fit float64 data"):
        as_task(fitted, X, y)


def test_coefficients_that_diverged_are_refused():
    X, y = data(60, 3, 2, "unit")
    fitted = Ridge(solver="sag").fit(X, y)
    fitted.coef_ = fitted.coef_ * np.inf
    with pytest.raises(InputError, match="holds NaN or infinity"):
        as_task(fitted, X, y)
