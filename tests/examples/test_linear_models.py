"""The support vector machine's certificate and its retraining; logistic regression's optimum."""

import linear_svm
import logistic_regression
import numpy as np
import pytest
from sklearn.svm import LinearSVC

ALPHA = 0.01


@pytest.fixture
def pair(splits):
    train, _ = splits
    return train.pair(4, 9)


@pytest.fixture
def signed(pair):
    return pair.x * pair.y[:, None]


def primal(weights, signed):
    return linear_svm.hinge(signed @ weights).mean() + 0.5 * ALPHA * weights @ weights


def test_the_duality_gap_certifies_the_optimum(pair, signed):
    svm = linear_svm.fit(signed, ALPHA)
    assert svm.converged and svm.violation < 1e-9 and abs(svm.gap) < 1e-12
    assert ((svm.dual >= 0) & (svm.dual <= 1)).all()
    np.testing.assert_allclose((signed @ svm.weights)[svm.on_margin], 1.0, atol=1e-9)
    n = len(pair)
    other = LinearSVC(
        loss="hinge", C=1 / (ALPHA * n), fit_intercept=False, tol=1e-9, max_iter=1_000_000, random_state=0
    ).fit(pair.x, pair.y)
    assert primal(svm.weights, signed) <= primal(other.coef_[0], signed) + 1e-14
    np.testing.assert_allclose(svm.weights, other.coef_[0], atol=1e-3)


def test_refitting_equals_fitting_the_data_without_the_example(pair, signed):
    svm = linear_svm.fit(signed, ALPHA)
    n = len(pair)
    moved = 0
    for row in [
        *svm.on_margin[:3],
        *np.flatnonzero(svm.dual == 1.0)[:3],
        int(np.flatnonzero(svm.dual == 0.0)[0]),
    ]:
        refit = linear_svm.refit_without(signed, ALPHA, svm, int(row))
        keep = np.arange(n) != row
        # Weights 1/n kept: the same optimum as a mean over n − 1 with α scaled by n / (n − 1).
        fresh = linear_svm.fit(signed[keep], ALPHA * n / (n - 1))
        assert refit.converged and abs(refit.gap) < 1e-12
        np.testing.assert_allclose(refit.weights, fresh.weights, atol=1e-9)
        moved += not np.allclose(refit.weights, svm.weights, atol=1e-9)
    assert moved == 6  # every support vector moves the optimum, an example beyond the margin does not


def test_an_active_set_cut_short_is_flagged(pair, signed):
    svm = linear_svm.fit(signed, ALPHA)
    row = int(np.flatnonzero(svm.dual == 1.0)[0])
    assert not linear_svm.refit_without(signed, ALPHA, svm, row, max_steps=0).converged


def test_logistic_regression_is_at_its_optimum(pair):
    fit = logistic_regression.fit(pair.x, pair.y, ALPHA)
    assert fit.gradient_norm < 1e-12
    value = np.logaddexp(0, -pair.y * (pair.x @ fit.weights)).mean() + 0.5 * ALPHA * fit.weights @ fit.weights
    rng = np.random.default_rng(0)
    for _ in range(10):
        near = fit.weights + 1e-3 * rng.standard_normal(len(fit.weights))
        assert np.logaddexp(0, -pair.y * (pair.x @ near)).mean() + 0.5 * ALPHA * near @ near > value


def test_logistic_regression_cut_short_is_an_error(pair):
    with pytest.raises(ArithmeticError, match="training stopped"):
        logistic_regression.fit(pair.x, pair.y, ALPHA, max_iterations=1)
