"""Each intervention, predicted and carried out: on ridge regression, a softmax regression, and a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.interventions.edited_problems import (
    KINDS,
    actual_change,
    convex,
    edit,
    fit,
    network,
    queries,
    retrained,
    ridge,
)
from tests.support import Plain, digits
from wherefrom import from_sklearn
from wherefrom.api import as_examples
from wherefrom.interventions import EditedObjective
from wherefrom.interventions.edits import upweight
from wherefrom.task import Data

BOTH = ["mean", "sum"]


def error(predicted, actual) -> float:
    return float((predicted - actual).norm() / actual.norm())


@pytest.mark.parametrize("reduction", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_newton_is_exact_for_ridge_regression(kind, reduction):
    """A quadratic objective: one step with the curvature left is the whole way."""
    plain = ridge()
    influence = fit(plain, "squared_error")
    made, edited = edit(kind, influence, plain)
    x, _ = queries()
    data = (x, torch.ones(len(x), 2, dtype=torch.float64))
    change = made.change(data, order="newton", reduction=reduction)
    theta = retrained(plain, edited, reduction)
    torch.testing.assert_close(change.parameters, theta - plain.theta, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(change.values, plain.losses(theta, data) - plain.losses(plain.theta, data))
    assert change.converged and change.left_over < 1e-7 and change.level == "good"
    assert change.beyond_first_order == pytest.approx(error(change.first, change.values), rel=1e-6)


@pytest.mark.parametrize("reduction", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_against_retraining_of_a_softmax_regression(kind, reduction):
    plain = convex()
    made, edited = edit(kind, fit(plain), plain)
    actual = actual_change(plain, edited, reduction, queries())
    found = {
        order: made.change(queries(), order=order, reduction=reduction)
        for order in ("first", "second", "newton", "optimum")
    }
    errors = {order: error(change.values, actual) for order, change in found.items()}
    assert errors["first"] < 0.15 and errors["second"] <= errors["first"]
    assert errors["newton"] < 0.7 * errors["first"]
    assert errors["optimum"] < 1e-6
    for order in ("first", "second", "newton"):
        # What one more step would add is what is missing, but for what that step misses in turn.
        assert error(found[order].remaining, actual - found[order].values) < 0.3
        torch.testing.assert_close(found[order].first, found["first"].values)
    assert made.change(queries(), reduction=reduction).order == "optimum"


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_against_retraining_of_a_network(kind):
    """Retrained from the given parameters, so that the same minimum is followed."""
    plain = network()
    made, edited = edit(kind, fit(plain, curvature="ggn"), plain)
    actual = actual_change(plain, edited, "mean", queries(), newton=4)
    first, newton = (made.change(queries(), order=order).values for order in ("first", "newton"))
    assert np.corrcoef(first, actual)[0, 1] > 0.85 and np.corrcoef(newton, actual)[0, 1] > 0.9
    assert error(newton, actual) < min(1.1 * error(first, actual), 0.55)


def test_the_hessian_of_a_network_predicts_a_removal_to_a_few_percent():
    plain = network()
    made, edited = edit("remove", fit(plain), plain)
    actual = actual_change(plain, edited, "mean", queries(), newton=4)
    newton = made.change(queries(), order="newton")
    assert error(newton.values, actual) < 0.03 and newton.level == "good"
    gauss_newton = fit(plain, curvature="ggn").remove(made.edits.removed).change(queries())
    assert gauss_newton.level != "good" and "approximation of the model's own" in gauss_newton.words


def test_the_order_of_an_order_is_how_fast_its_error_vanishes():
    """Halving a change of weight divides the error of first order by 4 and of second by 8 (ridge regression,
    where no third derivative stands in the way)."""
    plain = ridge()
    influence = fit(plain, "squared_error")
    x, _ = queries()
    data = (x, torch.zeros(len(x), 2, dtype=torch.float64))
    chosen = [3, 8, 25]
    errors: dict[str, list[float]] = {"first": [], "second": []}
    for epsilon in (0.2, 0.1):
        weights = torch.ones(plain.n, dtype=torch.float64)
        weights[chosen] += epsilon
        theta = retrained(plain, (plain.x, plain.y, weights), "sum")
        for order, kept in errors.items():
            made = influence.upweight(chosen, 1 + epsilon).change(data, order=order, reduction="sum")
            kept.append(float((made.parameters - (theta - plain.theta)).norm()))
    assert errors["first"][0] / errors["first"][1] == pytest.approx(4, rel=0.1)
    assert errors["second"][0] / errors["second"][1] == pytest.approx(8, rel=0.1)


def test_first_order_is_the_sum_of_the_scores():
    plain = convex()
    influence = fit(plain)
    scores = influence.scores(queries())
    group = [2, 5, 8, 40]
    kept = influence.remove(group).change(queries(), order="first", reduction="sum")
    torch.testing.assert_close(kept.values, scores.group(group) / plain.n)
    # Averaging over what is left moves the others' weight: (sum − k mean) / (n − k).
    mean = influence.remove(group).change(queries(), order="first", reduction="mean")
    expected = (scores.group(group) - 4 * scores.values.mean(1)) / (plain.n - 4)
    torch.testing.assert_close(mean.values, expected, rtol=1e-6, atol=1e-9)


def test_the_edited_gradient_and_curvature_are_those_of_dense_autograd():
    plain = network()
    influence = fit(plain)
    for kind in KINDS:
        made, (x, y, weights) = edit(kind, influence, plain)
        for reduction in BOTH:
            total = float(weights.sum()) if reduction == "mean" else plain.n
            changed = Plain(plain.model, plain.loss, (x, y), plain.decay)
            objective = EditedObjective(influence, Data((plain.x, plain.y)), made.edits, reduction)
            dense = changed.hessian(weights=weights / total)
            torch.testing.assert_close(objective.curvature().to_dense(), dense, rtol=1e-8, atol=1e-10)
            for theta in (plain.theta, plain.theta + 0.1):
                leaf = theta.clone().requires_grad_()
                (expected,) = torch.autograd.grad(changed.objective(leaf, weights / total), leaf)
                torch.testing.assert_close(objective.gradient_at(theta), expected, rtol=1e-8, atol=1e-11)
            leaf = plain.theta.clone().requires_grad_()
            (before,) = torch.autograd.grad(plain.objective(leaf), leaf)
            (after,) = torch.autograd.grad(changed.objective(leaf, weights / total), leaf)
            torch.testing.assert_close(objective.gradient_change(), after - before, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher", "sampled_fisher"])
def test_the_curvature_left_of_the_removed_is_that_of_the_rest(curvature):
    """With the curvature's own rule, seen from a fit on the rest alone (sampled labels go by number)."""
    plain = network()
    whole = fit(plain, curvature=curvature, damping=0.1)
    gone = list(range(50, 60))
    made = EditedObjective(whole, Data((plain.x, plain.y)), whole.remove(gone).edits, "mean")
    rest = Plain(plain.model, plain.loss, (plain.x[:50], plain.y[:50]), plain.decay)
    left = fit(rest, curvature=curvature, damping=0.1)
    expected = left.damping.add_to(left.curvature.operator).to_dense()
    torch.testing.assert_close(made.curvature().to_dense(), expected, rtol=1e-7, atol=1e-10)


def test_a_group_that_is_too_large_is_called_so():
    plain = convex()
    influence = fit(plain)
    scores = influence.scores(queries()).values.sum(0)
    helpful = scores.argsort(descending=True)[:25]
    first = influence.remove(helpful).change(queries(), order="first")
    assert first.level != "good" and "One more step would change" in first.words
    newton = influence.remove(helpful).change(queries(), order="newton")
    assert newton.left_over < first.left_over and "First order alone is off by" in newton.words


def test_solvers_agree_and_state_their_errors():
    plain = convex()
    exact = fit(plain).remove([1, 2]).change(queries(), order="newton")
    loose = fit(plain, solver="cg").remove([1, 2]).change(queries(), order="newton")
    torch.testing.assert_close(loose.values, exact.values, rtol=1e-6, atol=1e-10)
    one = fit(plain, solver="cg").remove([1, 2]).change(queries(), order="first")
    assert ((one.values - exact.first).abs() <= one.bound).all()


def test_layers_apart_predict_to_first_order():
    plain = network()
    influence = fit(plain, solver="ekfac", curvature="ggn", damping="auto")
    change = influence.remove([3, 4]).change(queries(), reduction="sum")
    scores = influence.scores(queries())
    assert change.order == "first" and not torch.isfinite(change.bound).any()
    torch.testing.assert_close(change.values, scores.group([3, 4]) / plain.n, rtol=1e-4, atol=1e-9)


def test_the_words_of_edits_and_the_table():
    influence = fit(convex())
    made = influence.remove([1]).upweight([2, 3], 0.5)
    assert repr(made) == "Intervention(remove 1 training example, count 2 training examples 0.5 times)"
    change = made.change(queries())
    table = change.to_pandas()
    assert list(table["query"]) == list(range(12)) and np.allclose(table["predicted"], change.values)
    assert "remove 1 training example" in repr(change)
    summary = change.summary()
    assert summary["order"] == "optimum" and summary["level"] == change.level
    assert upweight([2], 3, 90).total_weight(90) == 92


@pytest.mark.parametrize("times", [3.0, 40.0])
def test_the_optimum_is_found_however_large_the_edit(times):
    plain = convex()
    weights = torch.ones(plain.n, dtype=torch.float64)
    chosen = list(range(0, plain.n, 3))
    weights[chosen] = times
    change = fit(plain).upweight(chosen, times).change(queries())
    actual = actual_change(plain, (plain.x, plain.y, weights), "mean", queries())
    assert change.order == "optimum" and error(change.values, actual) < 1e-6
    half = torch.arange(plain.n)[::2]
    gone = torch.ones(plain.n, dtype=torch.float64)
    gone[half] = 0
    change = fit(plain, solver="cg", dtype=torch.float32).remove(half).change(queries())
    assert error(change.values, actual_change(plain, (plain.x, plain.y, gone), "mean", queries())) < 1e-3


def test_directions_that_the_objective_leaves_free_do_not_keep_it_from_the_optimum():
    """The intercepts of a softmax may all move together: rounding alone moves them, further with each step,
    where the damping is negligible as it is here."""
    x, y = (part.numpy() for part in digits(300))
    fitted = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(x, y)
    influence = from_sklearn(fitted, x, y, progress=False).fit()
    change = influence.remove([3, 5]).change(as_examples(fitted, x[:20], y[:20]), reduction="sum")
    assert change.order == "optimum" and change.converged
    assert change.left_over < 1e-8
