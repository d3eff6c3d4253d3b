"""The verdict of retraining that one study keeps, and the others show."""

from __future__ import annotations

import pytest

from tests.support import softmax_regression
from wherefrom import Influence, trust_of
from wherefrom.studies.kept_trust import KeptTrust


def fit(**options):
    plain = softmax_regression(30, classes=3, decay=0.05)
    data = (plain.x, plain.y)
    return Influence(
        plain.model, data, loss="cross_entropy", weight_decay=0.05, progress=False, **options
    ).fit()


@pytest.mark.parametrize("verdict", ["yes", "ranking only", "no", "cannot tell"])
def test_a_study_that_retrained_itself_says_so_beside_the_verdict_that_was_kept(tmp_path, verdict):
    influence, own = fit(), "every flip was counted after retraining"
    KeptTrust(tmp_path, influence).write(verdict)
    found = KeptTrust(tmp_path, influence).added_to(trust_of(influence, retrained=own))
    assert found == trust_of(influence, retraining=verdict, retrained=own)
    assert own in found.words and found.retraining == verdict


def test_the_verdict_is_of_these_settings_alone(tmp_path):
    influence, other = fit(), fit(damping=0.3)
    KeptTrust(tmp_path, influence).write("yes")
    assert KeptTrust(tmp_path, other).added_to(trust_of(other)) == trust_of(other)
