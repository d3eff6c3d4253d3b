"""What a verification says of the scores, from changes whose correlations are made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from whence.evaluation import Verification


def check(predicted, actual, **changed) -> Verification:
    predicted, actual = (np.asarray(values, dtype=float).reshape(-1, 1) for values in (predicted, actual))
    fields = {
        "removed": np.arange(len(predicted)),
        "predicted": predicted,
        "actual": actual,
        "noise": np.zeros_like(actual),
        "seeds": (0,),
        "reduction": "mean",
        "baseline_gap": 0.0,
    }
    return Verification(**{**fields, **changed})


SPREAD = np.linspace(-1, 1, 10)
# Two large changes, and small ones in the wrong order.
PREDICTED_LARGE = np.array([10, -10, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
ACTUAL_LARGE = np.array([10, -10, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("made", "level", "answer", "words"),
    [
        (check(SPREAD, SPREAD), "good", "Yes", "in order and in size"),
        (
            check(PREDICTED_LARGE, ACTUAL_LARGE),
            "fair",
            "In size",
            "in size; the order of the smaller ones is not resolved",
        ),
        (check(SPREAD, 2 * SPREAD), "fair", "In order", "confirms the order of the scores"),
        (check(PREDICTED_LARGE, 2 * ACTUAL_LARGE), "fair", "The large ones", "confirms the large scores"),
        (check(SPREAD, -SPREAD), "poor", "No", "does not confirm"),
        (check(SPREAD, 0 * SPREAD), "none", "Undecided", "no variation"),
        (
            check(SPREAD, SPREAD + np.tile([1.0, -1.0], 5) * 0.8),
            "fair",
            "In tendency",
            "in tendency only",
        ),
    ],
)
def test_order_and_size_are_judged_apart(made, level, answer, words):
    judgement = made.judgement()
    assert (judgement.level, judgement.answer) == (level, answer)
    assert words in judgement.words and made.words == judgement.words
    assert "small:" not in made.words


@pytest.mark.parametrize(("count", "words"), [(2, "small: 2 removals."), (4, "small: 4 removals.")])
def test_a_small_check_says_so(count, words):
    assert words in check(SPREAD[:count], SPREAD[:count]).words


def test_one_removal_over_several_queries_is_small():
    predicted = np.array([[1.0, 2.0, 3.0]])
    made = Verification(np.array([4]), predicted, predicted, 0 * predicted, (0,), "mean", 0.0)
    assert "small: 1 removal." in made.words


def test_a_recipe_that_does_not_reproduce_the_model_is_named():
    assert "does not reproduce the given model" in check(SPREAD, SPREAD, baseline_gap=5.0).words
