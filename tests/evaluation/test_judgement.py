"""What a verification says of the scores, from changes whose correlations are made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wherefrom.evaluation import Verification


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
            "Ranking only",
            "in size too; the order of the smaller ones is not resolved",
        ),
        (check(SPREAD, 2 * SPREAD), "fair", "Ranking only", "confirms the order of the scores"),
        (check(PREDICTED_LARGE, 2 * ACTUAL_LARGE), "fair", "Ranking only", "confirms the large scores"),
        (check(SPREAD, -SPREAD), "poor", "No", "does not confirm"),
        (check(SPREAD, 0 * SPREAD), "none", "Cannot tell", "no variation"),
        (
            check(SPREAD, SPREAD + np.tile([1.0, -1.0], 5) * 0.6),
            "fair",
            "Ranking only",
            "in tendency only",
        ),
    ],
)
def test_order_and_size_are_judged_apart(made, level, answer, words):
    judgement = made.judgement()
    assert (judgement.level, judgement.answer) == (level, answer)
    assert judgement.verdict == answer.lower() == made.summary()["verdict"]
    assert words in judgement.words and made.words == judgement.words
    assert "small:" not in made.words


@pytest.mark.parametrize(
    ("predicted", "actual", "noise", "words"),
    [
        (SPREAD, SPREAD, 0.0, "confirms the order of the scores. They have no size"),
        (SPREAD, 2 * SPREAD, 0.0, "confirms the order of the scores. They have no size"),
        (PREDICTED_LARGE, ACTUAL_LARGE, 0.0, "smaller ones is not resolved. They have no size"),
        (SPREAD, SPREAD, 0.5, "correlation 1.00 between the removals). They have no size"),
    ],
)
def test_similarities_are_judged_by_order_alone(predicted, actual, noise, words):
    noisy = np.full((len(predicted), 1), noise)
    made = check(predicted, actual, noise=noisy, sized=False)
    assert made.judgement().verdict == "ranking only" and words in made.words
    assert "slope" not in made.words and "in size" not in made.words and "their size" not in made.words


@pytest.mark.parametrize(("count", "words"), [(2, "small: 2 removals."), (4, "small: 4 removals.")])
def test_a_small_check_says_so(count, words):
    assert words in check(SPREAD[:count], SPREAD[:count]).words


def test_one_removal_over_several_queries_is_small():
    predicted = np.array([[1.0, 2.0, 3.0]])
    made = Verification(np.array([4]), predicted, predicted, 0 * predicted, (0,), "mean", 0.0)
    assert "small: 1 removal." in made.words


def test_a_recipe_that_does_not_reproduce_the_model_is_named():
    assert "does not reproduce the given model" in check(SPREAD, SPREAD, baseline_gap=5.0).words


def test_noise_above_the_effects_cannot_tell_and_says_how_many_seeds_might():
    generator = np.random.default_rng(3)
    noisy = check(SPREAD, generator.normal(size=10), noise=np.full((10, 1), 3.0))
    assert noisy.judgement().verdict == "cannot tell" and "seeds (about " in noisy.words
    # What agrees beyond chance needs no small noise: noise knows nothing of the predictions.
    assert check(SPREAD, SPREAD, noise=np.full((10, 1), 3.0)).judgement().verdict == "ranking only"
    small = check(SPREAD, -SPREAD, noise=np.full((10, 1), 1e-4))
    assert small.judgement().verdict == "no"


def test_the_seeds_asked_for_grow_with_the_noise():
    found = check(1e-3 * SPREAD, -SPREAD, noise=np.full((10, 1), 30.0))
    assert "more than 1,000" in found.words


def test_a_tendency_of_few_removals_may_be_chance():
    found = check(SPREAD[:4], SPREAD[[0, 2, 1, 3]] + [0.0, 0.2, 0.0, 0.0])
    assert found.judgement().verdict == "cannot tell" and "chance may give" in found.words
