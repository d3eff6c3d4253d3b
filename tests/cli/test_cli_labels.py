"""`wherefrom labels`, from a task file to the terminal, the files and the page; and what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.cli.audit_problem import TABLE, TEXT, csv_rows, run, write
from wherefrom.cli.main import app
from wherefrom.cli.task_file import load_task
from wherefrom.errors import InputError
from wherefrom.studies.labels import PROPOSALS_RIGHT
from wherefrom.studies.labels.study import Labels
from wherefrom.studies.runner import run_study
from wherefrom.studies.study import options_of

FLIPPED = (
    TABLE.replace(
        "train, queries = (x[:40], y[:40])",
        "y[[3, 17, 30]] = 1 - y[[3, 17, 30]]\ntrain, queries = (x[:40], y[:40])",
    )
    + "\nvalidation = (x[40:], y[40:])\n"
)


def invoke(*arguments: object, command: str = "labels", columns: int = 80, code: int = 0) -> str:
    result = run(command, *arguments, columns=columns)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    said = invoke(write(folder, FLIPPED), "--out", folder / "out", "--top", 6)
    return folder, said


def test_the_terminal_shows_the_ranking_in_80_columns(found):
    folder, said = found
    assert max(len(line) for line in said.splitlines() if str(folder) not in line) <= 80
    for expected in (
        "my task",
        "Labels to check.",
        "proposed",
        "left out",
        "self-infl.",
        "relabel",
        "below",
        "above",
    ):
        assert expected in said, expected


def test_the_files_agree_with_the_library(found):
    folder, _ = found
    task = load_task(folder / "my_task.py")
    audit = task.attributor_of(progress=False).labels(task.validation, class_names=task.class_names)
    table = csv_rows(folder / "out" / "labels.csv")
    assert [int(row["train"]) for row in table] == audit.order().tolist()
    assert {int(row["train"]) for row in table[:3]} == {3, 17, 30}
    for row in table:
        for name, values in audit.signals.items():
            assert float(row[name]) == pytest.approx(float(values[int(row["train"])])), name
        assert row["given"] == audit.class_names[int(audit.given[int(row["train"])])]
    summary = json.loads((folder / "out" / "labels.json").read_text())
    assert summary["looked_at"] == summary["n"] == 40 and summary["classes"] == ["below", "above"]
    assert [entry["train"] for entry in summary["top"]] == audit.order()[:6].tolist()
    assert summary["agreement"]["names"] == list(audit.signals)
    assert summary["settings"]["validation"] == 20
    wrong, ranking = audit.wrong, audit.ranking
    assert summary["wrong_labels"] == {
        "estimate": wrong.estimate,
        "low": wrong.low,
        "high": wrong.high,
        "told": wrong.told,
        "words": wrong.words,
    }
    assert summary["combined"] == {
        "leads": "margin",
        "loss_weight": 0.0,
        "far_off": None,  # two classes
        "harm_weight": ranking.harm_weight,
    }
    assert summary["proposals_right"] == PROPOSALS_RIGHT


def test_the_number_of_wrong_labels_is_said_everywhere(found):
    folder, said = found
    words = json.loads((folder / "out" / "labels.json").read_text())["wrong_labels"]["words"]
    assert words in " ".join(said.split())
    assert words in " ".join((folder / "out" / "labels.html").read_text(encoding="utf-8").split())


def test_proposals_are_not_shown_as_right(found):
    folder, said = found
    html = " ".join((folder / "out" / "labels.html").read_text(encoding="utf-8").split())
    for text in (" ".join(said.split()), html):
        assert PROPOSALS_RIGHT in text
    assert "→" not in said and "→" not in html[html.index('class="shown"') : html.index("<footer")]


def test_the_page_stands_alone_and_shows_cards(found):
    html = (found[0] / "out" / "labels.html").read_text(encoding="utf-8")
    assert "Which of these labels are wrong?" in html and "Labels to check" in html
    assert html.count('<span class="rank">') == 6
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html


def test_texts_without_validation(tmp_path):
    said = invoke(write(tmp_path, TEXT), "--out", tmp_path / "out", "--top", 3)
    assert "no validation examples" in said and "harm," not in said
    html = " ".join((tmp_path / "out" / "labels.html").read_text(encoding="utf-8").split())
    assert "<blockquote" in html and "<b>No validation examples</b> were given" in html
    assert {row["harm"] for row in csv_rows(tmp_path / "out" / "labels.csv") if "harm" in row} == set()


def test_another_sign_and_fewer_examples(tmp_path):
    file = write(tmp_path, FLIPPED)
    said = invoke(file, "--out", tmp_path / "out", "--by", "self_influence", "--review", 10, "--solver", "cg")
    assert "10 training examples looked at (of 40" in " ".join(said.split())
    assert "cannot tell. Only 10 of 40 training examples were looked at" in " ".join(said.split())
    own = [float(row["self_influence"]) for row in csv_rows(tmp_path / "out" / "labels.csv")]
    assert len(own) == 10 and own == sorted(own, reverse=True)
    settings = json.loads((tmp_path / "out" / "labels.json").read_text())["settings"]
    assert settings["solver"] == "cg"


def test_an_audit_of_a_classification_shows_the_panel(tmp_path):
    invoke(
        write(tmp_path, FLIPPED), "--out", tmp_path / "out", "--remove", 0, "--queries", 1, command="audit"
    )
    assert "Labels to check" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


REGRESSION = (
    TABLE.replace("cross_entropy", "squared_error")
    .replace("y = (x @", "y = (x.clone() @")
    .replace("> 0).long()", "* 1.0)[:, None]")
    .replace("nn.Linear(3, 2)", "nn.Linear(3, 1)")
    .replace('class_names = ["below", "above"]', "")
)


def test_an_audit_of_a_regression_does_not(tmp_path):
    invoke(
        write(tmp_path, REGRESSION), "--out", tmp_path / "out", "--remove", 0, "--queries", 1, command="audit"
    )
    assert "Labels to check" not in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text, options, message",
    [
        (REGRESSION, (), "has no classes"),
        (FLIPPED, ("--by", "hunch"), "by='hunch' is none of the signals"),
        (TABLE, ("--by", "harm"), "needs validation="),
        (FLIPPED, ("--top", "0"), "top=0"),
        (FLIPPED, ("--review", "-1"), "review=-1"),
        (FLIPPED + "\nvalidation = (x[:0], y[:0])\n", (), "validation is empty"),
        (FLIPPED + '\nclass_names = ["one"]\n', (), "1 names and the model 2 classes"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, text, options, message):
    said = invoke(write(tmp_path, text), "--out", tmp_path / "out", *options, columns=400, code=2)
    assert message in said
    assert not (tmp_path / "out" / "labels.csv").exists()
    if "--by" in options:
        assert "fitting" not in said  # before anything long


def test_options_are_checked():
    with pytest.raises(InputError, match="top=0"):
        Labels(top=0)


def test_from_python(tmp_path):
    task = load_task(write(tmp_path, FLIPPED))
    stages: list[str] = []
    (answer,) = run_study(Labels(top=2), task, tmp_path / "out", progress=False, say=stages.append)
    assert len(stages) == 3 and len(answer.result.summary()["top"]) == 2
    shown = answer.result._repr_html_()
    assert "Can this be trusted?" in shown and answer.section.trust.words in " ".join(shown.split())


def test_help_has_the_defaults_and_texts_of_the_fields():
    result = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(app, ["labels", "--help"])
    said = " ".join(result.output.replace("│", " ").split())
    for one in options_of(Labels):
        assert one.metadata["help"] in said and str(one.default) in said
