"""Each experiment, small: scores against plain NumPy, predictions against retraining, and the figures."""

import figure1
import figure2
import linear_svm
import logistic_regression
import numpy as np
import pytest
import smooth_hinge
import softmax_regression as softmax
import torch
from attribution import scores
from mnist import DataError

import wherefrom
from tests.examples import oracles
from wherefrom.losses import Logistic, SmoothHinge


@pytest.mark.slow
def test_figure2_predicts_retraining_by_every_solver(splits):
    train, test = splits
    settings = figure2.Settings(
        removals=12, cross_checks=1, lissa_depth=1500, lissa_repeats=4, lissa_batch=16, lissa_scale=10.0
    )
    result, points = figure2.experiment(train, test, None, settings)
    assert result["retraining"]["converged"] == 12
    assert result["retraining"]["guaranteed_error_of_loss_change"] < 1e-6
    assert result["cross_check"]["largest_relative_difference"] < 1e-4
    assert result["exact"]["pearson"] > 0.99 and result["cg"]["pearson"] > 0.99
    assert result["lissa"]["pearson"] > 0.97
    np.testing.assert_allclose(points["cg"], points["exact"], rtol=1e-4)
    assert len(figure2.draw(result, points).axes) == 3

    problem = softmax.Problem(torch.from_numpy(train.x), torch.from_numpy(train.y), 10, figure2.ALPHA)
    optimum, _ = softmax.fit_exact(problem, softmax.fit_lbfgs(problem), tolerance=1e-12)
    row = result["query"]["row"]
    expected = oracles.softmax_scores(
        optimum.weights.numpy(), train.x, train.y, test.x[row], test.y[row], figure2.ALPHA
    )
    largest = np.argsort(-np.abs(expected), kind="stable")[:12]
    np.testing.assert_allclose(points["exact"], expected[largest] / len(train), rtol=1e-6)


def test_figure2_refuses_a_query_that_is_read_correctly():
    labels = np.array([0, 1, 2])
    with pytest.raises(DataError, match="--query 0: the model reads that test image correctly"):
        figure2.choose_query(np.array([0, 1, 1]), labels, 0)
    with pytest.raises(DataError, match="misreads no test image"):
        figure2.choose_query(labels, labels, None)
    assert figure2.choose_query(np.array([0, 1, 1]), labels, None) == 2


def test_figure2_leaves_out_what_did_not_converge(splits, monkeypatch):
    train, test = splits
    real = softmax.retrain_without

    def one_fails(*args, **kwargs):
        result = real(*args, **kwargs)
        result.converged[0] = False
        return result

    monkeypatch.setattr(softmax, "retrain_without", one_fails)
    settings = figure2.Settings(
        removals=6, cross_checks=0, lissa_depth=300, lissa_repeats=2, lissa_batch=16, lissa_scale=10.0
    )
    result, points = figure2.experiment(train, test, None, settings)
    assert result["retraining"]["removals"] == 6 and result["retraining"]["converged"] == 5
    assert len(points["actual"]) == len(points["exact"]) == 5


def test_figure1_variants(splits):
    train, test = splits
    pairs = {"1-vs-7": (train.pair(1, 7), test.pair(1, 7)), "4-vs-9": (train.pair(4, 9), test.pair(4, 9))}
    result, points = figure1.experiment(pairs, query=3, overview=20)
    for name, (part, whole) in pairs.items():
        fit = logistic_regression.fit(part.x, part.y, figure1.ALPHA)
        expected = oracles.logistic_scores(fit.weights, part.x, part.y, whole.x[3], whole.y[3], figure1.ALPHA)
        np.testing.assert_allclose(points[name]["influence"], expected, rtol=1e-6, atol=1e-9)
        # Pixels are non-negative: without the Hessian every example of the query's label looks helpful.
        assert result[name]["without_hessian"]["helpful_share_of_same_label"] == 1.0
        assert result[name]["without_hessian"]["helpful_share_of_other_label"] == 0.0
        assert result[name]["influence"]["helpful_share_of_same_label"] < 1.0
        assert result[name]["without_train_loss"]["scale_ratio"] > 1.0
    assert result["size_ratio"]["at_the_query"] > 0
    assert len(figure1.draw(result, points).axes) == 10
    with pytest.raises(DataError, match="--query 100000"):
        figure1.one_pair(*pairs["1-vs-7"], 100_000, None)


@pytest.mark.parametrize("t", [0.001, 0.1])
def test_smooth_hinge_scores(splits, t):
    train, test = (split.pair(4, 9) for split in splits)
    svm = linear_svm.fit(train.x * train.y[:, None], smooth_hinge.ALPHA)
    queries = test.take(slice(0, 5))
    table = scores(
        svm.weights, train, queries, loss=SmoothHinge(t), alpha=smooth_hinge.ALPHA, solver=wherefrom.Exact()
    )
    for values, x, y in zip(np.asarray(table.values), queries.x, queries.y):
        expected = oracles.smooth_hinge_scores(svm.weights, train.x, train.y, x, y, smooth_hinge.ALPHA, t)
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max() + 1e-300)


def test_smooth_hinge_beats_the_hinge(splits):
    train, test = (split.pair(4, 9) for split in splits)
    svm = linear_svm.fit(train.x * train.y[:, None], smooth_hinge.ALPHA)
    query = int(np.argmin(test.y * (test.x @ svm.weights)))
    result, points = smooth_hinge.experiment(train, test, query, removals=25)
    assert result["retraining"]["converged"] == 25
    assert result["retraining"]["largest_violation"] < 1e-9
    assert result["t=0.1"]["relative_error"] < result["t=0"]["relative_error"]
    assert max(result["t=0.001"]["pearson"], result["t=0.1"]["pearson"]) > result["t=0"]["pearson"]
    assert len(smooth_hinge.draw(result, points).axes) == 4


def test_logistic_scores_of_several_queries_share_one_fit(splits):
    train, test = (split.pair(1, 7) for split in splits)
    fit = logistic_regression.fit(train.x, train.y, 0.01)
    table = scores(
        fit.weights,
        train,
        test.take(slice(0, 3)),
        loss=Logistic(),
        alpha=0.01,
        solver=wherefrom.CG(rtol=1e-10),
    )
    for values, x, y in zip(np.asarray(table.values), test.x, test.y):
        expected = oracles.logistic_scores(fit.weights, train.x, train.y, x, y, 0.01)
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-8)
