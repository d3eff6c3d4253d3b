"""The audit of a method that has only scores: its page says what is missing, and claims no more."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from tests.report.report_results import Page, scores, section, self_scores
from tests.studies.outside import tracin_task
from wherefrom.cli.main import app
from wherefrom.report import render_report, verdicts

VALUES = [[12.5, -7.75, 0.0, 1.0], [-2.0, -4.0, -6.0, -8.0]]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    arguments = ["audit", str(tracin_task(folder)), "--out", str(folder / "out")]
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*arguments, "--remove", "6", "--queries", "2"])
    assert result.exit_code == 0, result.output
    return folder / "out", result.output


def test_the_terminal_claims_no_sizes(audited):
    out, said = audited
    assert max(len(line) for line in said.splitlines() if str(out.parent) not in line) <= 80
    plain = " ".join(said.split())
    for words in (
        "Method TracIn",
        "This method does not say whether the parameters are a minimum",
        "This method states no errors of its scores.",
        "these scores have no size and predict no change",
    ):
        assert words in plain, words
    assert (
        "solved" not in plain
        and "residual" not in plain
        and "removal:" not in plain
        and "raises" not in plain
    )


def test_the_page_says_what_is_missing(audited):
    page = Page((audited[0] / "audit.html").read_text(encoding="utf-8"))
    assert page.faults == [] and page.open == []
    for words in (
        "TracIn has no scores of training examples for themselves (self-influence), so none are ranked.",
        "A score of TracIn predicts no change of anything: an order of likeness, without a size.",
        "This method does not say which parameters its scores account for.",
        "only the order of the dots from left to right counts",
        "Labels to check",
        "highest in this order",
    ):
        assert words in page.text, words
    for claim in ("∇mᵀ C⁻¹ g", "Every query was solved", "Hover over a score", "Studied:", "raises the loss"):
        assert claim not in page.text, claim


def test_the_files_hold_scores_and_no_sizes(audited):
    out, _ = audited
    with (out / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 5
    assert all(row["predicted_change"] == "" and row["resolved"] == "False" and row["score"] for row in rows)
    summary = json.loads((out / "audit.json").read_text())
    assert summary["scores"]["estimand"] == "similarity" and summary["minimum"] is None
    assert summary["verification"]["removed"] == 6 and not (out / "self_influence.csv").exists()


def outside(error: float, **changed):
    made = scores(VALUES, error=error, settings={"method": "Mine"}, estimand="expected retraining")
    infinite = torch.full_like(made.bound, torch.inf)
    return section(scores=dataclasses.replace(made, bound=infinite), minimum=None, **changed)


@pytest.mark.parametrize(
    ("error", "answer", "words"),
    [
        (1e-3, "Yes", "The errors that the method states are too small"),
        (1.0, "Roughly", "The errors show beside the scores."),
        (7.0, "No", "The errors are as large as the scores."),
        (float("inf"), "Not measured", "This method states no errors"),
    ],
)
def test_the_verdict_on_accuracy_names_no_solver(error, answer, words):
    verdict = verdicts(outside(error))[1]
    assert verdict.answer == answer and verdict.words.startswith(words)
    assert "olve" not in verdict.words and [name for name, _ in verdict.numbers] == ["Largest error shown"]


def test_a_method_that_predicts_retraining_has_sizes():
    text = Page(render_report([outside(0.5, self_scores=self_scores())])).text
    assert "removal: +3.12" in text and "Examples to review" in text
    assert "Scores of Mine predict the expected change when the model is trained again" in text
    assert "∇mᵀ C⁻¹ g" not in text and "Method Mine" in text
