"""Whether a predicted number stands out of its errors, and what a fit may be trusted for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import softmax_regression
from wherefrom import CrossEntropy, Influence, SmoothHinge, SquaredError
from wherefrom.influence import Measurement, resolve_change, resolve_measurement, trust_of, worst
from wherefrom.losses import BinaryCrossEntropy, Cosine, CustomLoss, FeatureDistance, Logistic

LOSS = (0.0, math.inf)


@pytest.mark.parametrize(
    ("change", "errors", "now", "said"),
    [
        (-4.82, {"the solver": 0.1}, 0.865, "it would give a negative loss (-3.96)"),
        (-0.676, {"the solver": 0.70, "the sample": 0.1}, 2.0, "within the error of the solver"),
        (-0.5, {"the solver": 0.3, "the sample": 0.3}, 2.0, "within the error of the solver and its other"),
        (0.5, {"the solver": math.inf}, 2.0, "the error of the solver was not measured"),
        (0.5, {"the solver": math.nan}, 2.0, "the error of the solver was not measured"),
        (2.5, {"the solver": 0.0}, 2.0, "larger than the loss itself (2)"),
        (math.nan, {}, 2.0, "no finite number"),
    ],
)
def test_what_is_not_resolved_says_why(change, errors, now, said):
    found = resolve_change(change, errors, now=now, range=LOSS)
    assert not found.resolved and said in found.reason


def test_what_is_resolved():
    assert resolve_change(-0.5, {"the solver": 0.1}, now=0.865, range=LOSS).resolved
    # A margin has no ends, and a probability has two.
    assert resolve_change(-4.8, {"the solver": 0.1}, now=0.8).resolved
    probability = resolve_change(0.4, {}, now=0.8, range=(0.0, 1.0), measurement="probability")
    assert "a probability above 1 (1.2)" in probability.reason
    assert resolve_change(0.1, {}, now=0.8, range=(0.0, 1.0)).resolved


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(0, 5), st.floats(0, 10), st.floats(0, 1))
def test_a_resolved_change_exceeds_its_errors_and_stays_in_range(change, first, second, now, more):
    found = resolve_change(change, {"a": first, "b": second}, now=now, range=LOSS)
    if found.resolved:
        assert abs(change) > first + second and now + change > -1e-4
    else:
        # More error never resolves it.
        assert not resolve_change(change, {"a": first + more, "b": second}, now=now, range=LOSS).resolved


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(), LOSS),
        (BinaryCrossEntropy(), LOSS),
        (SquaredError(), LOSS),
        (Logistic(), LOSS),
        (SmoothHinge(t=0.1), LOSS),
        (FeatureDistance(), LOSS),
        (Cosine(), (0.0, 2.0)),
        (CustomLoss(lambda f, y: f.square().sum(1)), (-math.inf, math.inf)),
        (CustomLoss(lambda f, y: f.square().sum(1), range=(0.0, math.inf)), LOSS),
    ],
)
def test_losses_know_their_ends(loss, expected):
    assert loss.range == expected == resolve_measurement("loss", loss).range


def test_other_measurements_have_no_end_unless_said():
    assert resolve_measurement("margin", CrossEntropy()).range == (-math.inf, math.inf)
    assert Measurement("probability", lambda f, y: f, range=(0.0, 1.0)).range == (0.0, 1.0)


def fit(shift: float = 0.0, **options):
    plain = softmax_regression(60, classes=3, decay=0.05)
    plain.model.bias.data += shift
    return Influence(
        plain.model, (plain.x, plain.y), loss="cross_entropy", weight_decay=0.05, progress=False, **options
    ).fit()


def test_trust_is_the_worst_of_what_is_known():
    good = trust_of(fit())
    assert good.level == "good" and good.minimum == "minimum" and "nothing was retrained" in good.words
    layered = trust_of(fit(solver="ekfac"))
    assert layered.level == "fair" and "each layer" in layered.words
    assert trust_of(fit(solver="identity")).level == "poor"
    assert trust_of(fit(), converged=False).level == "poor"
    assert worst("good", "poor", "fair") == "poor"


@pytest.mark.parametrize(
    ("verdict", "level", "said"),
    [
        ("yes", "good", "retraining agrees"),
        ("ranking only", "fair", "not with sizes"),
        ("no", "poor", "does not agree"),
        ("cannot tell", "good", "cannot tell"),
    ],
)
def test_retraining_decides_where_it_was_done(verdict, level, said):
    found = trust_of(fit(), retraining=verdict)
    assert found.level == level and said in found.words and found.as_dict()["retraining"] == verdict


NEXT = "only retraining tells"


@pytest.mark.parametrize("verdict", ["yes", "roughly", "ranking only", "no", "cannot tell"])
def test_after_retraining_nobody_is_sent_to_retraining_as_if_it_had_not_been(verdict):
    assert NEXT in trust_of(fit()).words
    found = trust_of(fit(), retraining=verdict)
    assert NEXT not in found.words and "nothing was retrained" not in found.words
    assert ("does not decide" in found.words) is (verdict == "cannot tell")
    assert ("order holds" in found.words) is (verdict == "ranking only")


@pytest.mark.parametrize("verdict", ["yes", "ranking only", "no"])
def test_a_solver_that_did_not_converge_takes_back_what_retraining_of_others_said(verdict):
    found = trust_of(fit(), converged=False, retraining=verdict)
    assert found.level == "poor" and "did not converge" in found.words and "it holds" not in found.words
    assert "order holds" not in found.words and found.verdict == ("no" if verdict == "no" else "cannot tell")


def test_what_else_was_retrained_stays_beside_the_verdict():
    found = trust_of(fit(), retrained="every flip was counted", retraining="ranking only")
    assert "every flip was counted, and retraining agrees with the order" in found.words
    assert found.retrained == "every flip was counted" and found.verdict == "ranking only"
    assert found.words.endswith("What was retrained here stands by itself.")
    alone = trust_of(fit(), retrained="every flip was counted").words
    assert "agrees with the rest, only retraining tells. What was retrained here stands" in alone
    assert "stands by itself" not in trust_of(fit(), retrained="all", retraining="yes").words
    assert "stands by itself" not in trust_of(fit(), retraining="no").words


def test_of_similarities_no_size_is_ever_said():
    influence = fit()
    influence.estimand = "similarity"
    for verdict in (None, "yes", "roughly", "ranking only", "cannot tell"):
        found = trust_of(influence, retraining=verdict)
        assert found.verdict in ("ranking only", "cannot tell") and found.retraining not in ("yes", "roughly")
        for said in ("Signs and sizes", "sizes as rough", "it holds"):
            assert said not in found.words


def test_a_fit_that_is_no_minimum_bounds_every_sentence():
    import torch

    plain = softmax_regression(60, classes=3, decay=0.05)
    with torch.no_grad():
        plain.model.weight.mul_(3)
    influence = Influence(
        plain.model, (plain.x, plain.y), loss="cross_entropy", weight_decay=0.05, progress=False
    ).fit()
    trust = trust_of(influence)
    assert trust.minimum == "not a minimum" and trust.level == "poor"
    change = influence.remove([3]).change((plain.x[:4], plain.y[:4]), order="first")
    assert change.trust == trust and change.level == "poor"
    for said in ("trust its sign", "take its sign", "small enough"):
        assert said not in change.words
    assert "Rankings usually hold" not in influence.minimum.words
