"""The estimated number of wrong labels: its interval against the truth, and every reason not to tell it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.labels.circle_problem import circle_audit
from tests.labels.label_problem import flipped_digits, signed_digits
from wherefrom import EKFAC, SmoothHinge
from wherefrom.studies.labels.wrong_count import binomial_interval


@pytest.mark.parametrize("noise", ["spread", "neighbour"])
@pytest.mark.parametrize("share", [0.0, 0.12])
@pytest.mark.parametrize("validation", [True, False])
def test_the_true_number_is_between_the_ends(noise, share, validation):
    audit, wrong = circle_audit(noise, share=share, validation=validation)
    count = audit.wrong
    assert count.told and count.examples == 500
    assert 0 <= count.low <= count.estimate <= count.high <= 500
    assert count.low <= int(wrong.sum()) <= count.high
    assert (
        f"{count.estimate} of 500" in count.words and f"between {count.low} and {count.high}" in count.words
    )
    if share == 0.0:
        assert count.low == 0
    else:
        assert count.low > 0 and abs(count.estimate - 60) < 30


@settings(max_examples=30, deadline=None)
@drawn(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_clopper_and_pearsons(case):
    hits, trials = case
    expected = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert binomial_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_part_of_the_training_set_tells_nothing_of_the_rest():
    problem = flipped_digits()
    some = problem.influence().labels(indices=[1, 2, 3]).wrong
    assert (some.told, some.low, some.high) == (False, None, None)
    assert "cannot tell. Only 3 of 60 training examples were looked at" in some.words


def test_unconverged_solves():
    audit, _ = circle_audit("spread")
    count = dataclasses.replace(audit, converged=False).wrong
    assert not count.told and "did not converge" in count.words


def test_a_model_that_learnt_its_labels_by_heart():
    audit, _ = circle_audit("spread")
    count = dataclasses.replace(audit, validation_disagreements=250).wrong
    assert not count.told and count.low is None
    assert "83 % of the validation examples" in count.words and "by heart" in count.words


def test_predictions_that_were_held_back():
    audit, _ = circle_audit("spread")
    count = dataclasses.replace(audit, settings={**audit.settings, "left_out_held": 6}).wrong
    assert not count.told and "For 6 of 500 examples" in count.words
    assert dataclasses.replace(audit, settings={**audit.settings, "left_out_held": 5}).wrong.told


def test_approximate_predictions_need_validation_examples():
    problem = flipped_digits(n=200, classes=4, wrong=20, seed=3)
    influence = problem.influence(solver=EKFAC())
    without = influence.labels().wrong
    assert not without.told and "validation examples" in without.words
    count = influence.labels(problem.validation).wrong
    assert count.told and count.low <= 20 <= count.high
    network = flipped_digits(hidden=4).influence(solver="cg").labels().wrong
    assert not network.told and "validation examples" in network.words


def test_labels_that_the_model_hardly_predicts():
    audit, wrong = circle_audit("spread", width=0.45)
    count = audit.wrong
    assert not count.told and count.estimate is None
    assert count.low <= int(wrong.sum()) <= count.high
    assert f"Anything from {count.low} to {count.high} of 500" in count.words


def test_labels_that_contradict_the_model():
    audit, _ = circle_audit("spread")
    count = dataclasses.replace(audit, given=(audit.given + 1) % 6).wrong
    assert not count.told and count.low is None
    assert "differs from more than half of the labels" in count.words


def test_scores_without_probabilities_are_counted_too():
    problem = signed_digits(SmoothHinge(t=0.5), n=120)
    audit = problem.influence(solver="exact").labels(problem.validation)
    assert not audit.settings["probabilities"]
    count = audit.wrong
    assert count.low <= int(problem.wrong.sum()) <= count.high


def test_validation_labels_that_differ_are_counted():
    problem = flipped_digits()
    audit = problem.influence().labels(problem.validation)
    with torch.no_grad():
        says = problem.model(problem.x_validation).argmax(1)
    assert audit.validation_disagreements == int((says != problem.y_validation).sum())
    assert audit.disagreement.validation == 40
    assert problem.influence().labels().validation_disagreements is None
