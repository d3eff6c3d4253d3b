"""The default ranking: what leads it, its formula, and that it follows the kind of noise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm, rankdata

from tests.labels.circle_problem import circle_audit
from wherefrom.studies.labels import Disagreement, average_precision
from wherefrom.studies.labels.combine import default_ranking, far_off_share, normal_scores
from wherefrom.studies.labels.disagreement import mean_confidence, most_confident

SINGLE = ("loss", "margin", "left_out_loss", "left_out_margin", "self_influence")


@pytest.mark.parametrize("noise, leads", [("spread", "loss"), ("neighbour", "margin")])
def test_the_sign_that_leads_follows_the_noise(noise, leads):
    audit, wrong = circle_audit(noise)
    assert audit.ranking.by == leads
    best = max(average_precision(audit.signals[name], wrong) for name in SINGLE)
    other = {"loss": "margin", "margin": "loss"}[leads]
    found = average_precision(audit.combined, wrong)
    assert found > best - 0.02
    assert found > average_precision(audit.signals[other], wrong)


def test_far_off_labels_are_counted_among_the_surest_half():
    sure, unsure = [0.7, 0.2, 0.07, 0.03], [0.3, 0.25, 0.24, 0.21]
    confidence = torch.tensor([sure] * 4 + [unsure] * 4, dtype=torch.float64)
    # Of the sure ones: one agrees, one is the second class, two are of the less likely half.
    given = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3])
    assert far_off_share(given, confidence) == min(1.0, 2 * 3 / 2 / 3)
    given = torch.tensor([0, 1, 1, 3, 3, 3, 3, 3])
    assert far_off_share(given, confidence) == pytest.approx(1 * 3 / 2 / 3)
    assert far_off_share(torch.zeros(8, dtype=torch.long), confidence) == 0.0
    assert math.isnan(far_off_share(torch.tensor([0, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])))


@pytest.mark.parametrize("noise", ["spread", "neighbour"])
@pytest.mark.parametrize("validation", [True, False])
def test_the_formula(noise, validation):
    audit, _ = circle_audit(noise, validation=validation)
    signals = {name: values.numpy() for name, values in audit.signals.items()}

    def scores(values):
        return norm.ppf(rankdata(values) / (len(values) + 1))

    def z(values):
        return (values - values.mean()) / values.std()

    found = audit.disagreement
    learnt = 1 - found.in_sample / found.left_out
    assert 0 < learnt < 1
    by_loss = scores(scores(signals["loss"]) + scores(signals["left_out_loss"]))
    by_margin = scores(z(signals["margin"]) + z(signals["left_out_margin"]))
    share = min(1.0, max(0.0, (audit.ranking.far_off - 0.13) / 0.16))
    assert share == (1.0 if noise == "spread" else pytest.approx(audit.ranking.loss_weight))
    expected = scores(share * by_loss + (1 - share) * by_margin)
    if validation:
        expected = expected + (0.15 + 0.3 * learnt) * scores(signals["relative_harm"])
    torch.testing.assert_close(audit.combined, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_between_the_two_kinds_both_count():
    audit, _ = circle_audit("spread")
    confidence = torch.full((500, 6), 0.1, dtype=torch.float64)
    confidence[:, 0] = 0.5
    given = torch.zeros(500, dtype=torch.long)
    confidence += torch.tensor([0.0, 0.005, 0.004, 0.003, 0.002, 0.001])
    given[:40], given[40:45] = 1, 5  # in the surest half: 45 differ, 5 of them far off, 5 · 5/3 / 45
    made = default_ranking(audit.signals, given, confidence, Disagreement(500, 10, 40))
    assert made.far_off == pytest.approx(5 * 5 / 3 / 45)
    assert made.loss_weight == pytest.approx((made.far_off - 0.13) / 0.16)
    assert made.by == "margin" and made.harm_weight > 0


def test_harm_leads_along_where_left_out_predictions_are_too_good():
    audit, _ = circle_audit("spread")
    confidence = mean_confidence(audit.confidence, audit.left_out_confidence, True)
    trusted = default_ranking(audit.signals, audit.given, confidence, Disagreement(1000, 10, 40, 500, 40))
    learnt = default_ranking(audit.signals, audit.given, confidence, Disagreement(1000, 10, 40, 500, 60))
    assert trusted.harm_weight == pytest.approx(0.15 + 0.3 * 0.75)
    assert learnt.harm_weight == 1.0


def test_disagreement_in_numbers():
    assert Disagreement(1000, 10, 40).memorised == 0.75
    assert Disagreement(1000, 50, 40).memorised == Disagreement(10, 0, 0).memorised == 0.0
    # .12 − .04 against 3·√(.04·.96/1000 + .12·.88/500) = .047; then .08 − .04 against .041.
    assert Disagreement(1000, 10, 40, 500, 60).too_good
    assert not Disagreement(1000, 10, 40, 500, 40).too_good
    assert not Disagreement(1000, 10, 40).too_good


def test_half_way_between_two_models():
    a = torch.tensor([[0.8, 0.2], [1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(mean_confidence(a, b, True)[0], torch.tensor([0.5, 0.5]).double())
    assert bool(torch.isfinite(mean_confidence(a, b, True)).all())
    torch.testing.assert_close(mean_confidence(a, b, False), ((a + b) / 2).softmax(1))


def test_the_surest_of_every_predicted_class():
    confidence = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]])
    assert sorted(most_confident(confidence, 0.34).tolist()) == [0, 4]
    assert sorted(most_confident(confidence, 1.0).tolist()) == [0, 1, 2, 3, 4]


def test_normal_scores_of_equal_values_are_zero():
    assert torch.equal(normal_scores(torch.ones(5)), torch.zeros(5, dtype=torch.float64))
