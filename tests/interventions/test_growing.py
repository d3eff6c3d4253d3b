"""Removal curves: predictions beside retraining as the group grows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interventions.edited_problems import convex, fit, queries
from wherefrom import FullBatch
from wherefrom.errors import ConvergenceError, InputError


def ranking(influence):
    return influence.scores(queries()).values.sum(0).argsort(descending=True)


def test_predictions_part_from_first_order_as_the_group_grows():
    plain = convex()
    influence = fit(plain)
    recipe = FullBatch(plain.model, loss="cross_entropy", weight_decay=0.03, gradient_tolerance=1e-8)
    calls = []

    def counted(train, seed):
        calls.append(len(train[1]))
        return recipe(train, seed)

    curve = influence.removal_curve(ranking(influence), [1, 5, 20], queries(), counted, prediction="newton")
    assert calls == [plain.n, 89, plain.n, 85, 70]  # the given data once, and once for the noise
    assert curve.actual is not None and curve.predicted.shape == (3, 12)
    off = [np.linalg.norm(p - a) / np.linalg.norm(a) for p, a in zip(curve.predicted, curve.actual)]
    first = [np.linalg.norm(p - a) / np.linalg.norm(a) for p, a in zip(curve.first, curve.actual)]
    assert off[0] < off[1] < off[2] and all(a < b for a, b in zip(off, first))
    assert curve.trusted >= 1
    table = curve.to_pandas()
    assert table["removed"].tolist() == [1, 5, 20] and np.allclose(table["actual"], curve.actual.mean(1))
    alone = influence.remove(ranking(influence)[:5]).change(queries(), order="newton")
    np.testing.assert_allclose(curve.predicted[1], alone.values)


def test_without_a_recipe_the_curve_is_predicted_only():
    influence = fit(convex())
    curve = influence.removal_curve([4, 5, 6], [1, 3], queries(), prediction="first", reduction="sum")
    assert curve.actual is None and curve.outcomes == () and "actual" not in curve.to_pandas()
    np.testing.assert_allclose(curve.first, curve.predicted)
    assert curve.order.tolist() == [4, 5, 6]


def test_a_size_that_does_not_converge_is_missing():
    plain = convex()
    recipe = FullBatch(plain.model, loss="cross_entropy", weight_decay=0.03)

    def stubborn(train, seed):
        if len(train[1]) == plain.n - 2:
            raise ConvergenceError("no")
        return recipe(train, seed)

    curve = fit(plain).removal_curve([4, 5, 6], [1, 2, 3], queries(), stubborn)
    assert np.isnan(curve.actual).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("sizes", [[], [0], [4]])
def test_sizes_outside_the_ranking_are_refused(sizes):
    with pytest.raises(InputError, match=r"expected at least one, each from 1 to 3"):
        fit(convex()).removal_curve([4, 5, 6], sizes, queries())
