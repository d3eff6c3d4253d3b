"""The verdict of retraining that one study keeps, and the others show."""

from __future__ import annotations

import pytest

from tests.cli.audit_problem import TABLE, write
from tests.support import softmax_regression
from wherefrom import Influence, trust_of
from wherefrom.cli.task_file import load_task
from wherefrom.report.study_page import section_html
from wherefrom.studies.change.study import DataChange
from wherefrom.studies.kept_trust import KeptTrust
from wherefrom.studies.runner import run_study
from wherefrom.studies.spectra.study import LossSpectrum


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


def asked(study, tmp_path):
    """What a study shows of a small task, on its page and in a notebook, and its answer."""
    task = load_task(write(tmp_path, TABLE))
    (answer,) = run_study(study, task, tmp_path / "out", progress=False)
    shown = section_html(answer.section)
    assert answer.result._repr_html_() == shown
    return answer.result, shown


def test_no_sentence_of_a_later_page_says_more_than_the_verdict_that_was_kept(tmp_path):
    change, spectrum = DataChange(remove=("3",)), LossSpectrum()
    before, shown = asked(change, tmp_path)
    assert before.change.level == "good" and "small enough for this order" in shown
    assert "stands at the head" not in asked(spectrum, tmp_path)[1]
    fitted = load_task(write(tmp_path, TABLE)).attributor_of(progress=False)
    KeptTrust(tmp_path / "out/run", fitted).write("no")
    after, shown = asked(change, tmp_path)
    assert after.trust.verdict == "no" and after.change.level == after.summary()["level"] == "poor"
    assert "small enough" not in shown and "not to be trusted for signs or sizes." in shown
    assert "what retraining said of the scores stands at the head" in asked(spectrum, tmp_path)[1]
