"""A study written in a user's file gets a command, a page and JSON; studies of one run share what is kept."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.cli.audit_problem import TABLE, write
from tests.studies.outside import STUDY
from wherefrom.cli.main import app


def run(*arguments: object, columns: int = 200):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["run", *map(str, arguments)])


def test_it_gets_a_command_a_page_and_json(tmp_path):
    study, task = write(tmp_path, STUDY, name="largest.py"), write(tmp_path, TABLE)
    result = run(study, task, "--out", tmp_path / "out", "--times", 2)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "largest.json").read_text())
    page = (tmp_path / "out" / "largest.html").read_text(encoding="utf-8")
    words = f"train {summary['train']}. train {summary['train']}."
    assert words in result.output and words in page and "Which example matters most?" in page
    assert summary["trust"]["words"] in page and summary["trust"]["advice"] in page


def test_its_options_have_one_default_and_one_text(tmp_path):
    study = write(tmp_path, STUDY, name="largest.py")
    result = run(study, "--help")
    assert (
        result.exit_code == 0 and "How often it is said." in result.output and "[default: 1]" in result.output
    )
    assert "Find the training example with the largest score of all." in result.output
    refused = run(study, write(tmp_path, TABLE), "--out", tmp_path / "out", "--times", 0)
    assert refused.exit_code == 2 and "times=0: expected at least 1" in refused.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines no study"),
        (STUDY + STUDY.replace("Largest", "Other"), "defines 2 studies, Largest and Other"),
        ("def (:\n", "study file"),
        ("def (:\n", "line 1"),
        ("raise ValueError(1)\n", "study file"),
    ],
)
def test_files_without_one_study_are_refused(tmp_path, text, message):
    result = run(write(tmp_path, text, name="mine.py"), write(tmp_path, TABLE), "--out", tmp_path / "out")
    assert result.exit_code == 2 and message in result.output
