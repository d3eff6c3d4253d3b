"""`wherefrom audit`, from a task file to the page and the files, and what it says when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import wherefrom
from tests.cli.audit_problem import TABLE, TEXT, csv_rows, run, write
from wherefrom.cli.main import app
from wherefrom.cli.python_file import run_python
from wherefrom.cli.task_file import load_task, task_from
from wherefrom.errors import InputError
from wherefrom.influence import load_scores
from wherefrom.studies.audit.study import Audit
from wherefrom.studies.runner import run_study
from wherefrom.studies.selection import choose_queries

EXAMPLE = Path(__file__).parents[2] / "examples" / "audit_digits.py"


def audit(*arguments: object, code: int = 0) -> str:
    # Wide enough that no message is broken: what is tested is what is said.
    result = run("audit", *arguments, columns=400)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    said = audit(write(folder, TABLE), "--out", folder / "out", "--top", 2, "--remove", 5, "--queries", 3)
    return folder / "out", said


def test_an_audit_says_what_it_found(audited):
    out, said = audited
    for expected in (
        "my task",
        "Is the model at a minimum? Yes.",
        "Does retraining agree?",
        "Pearson",
        "Most harmful: removing one lowers the loss",
    ):
        assert expected in said, expected
    assert str(out / "audit.html") in said


def test_the_files_agree_with_one_another(audited):
    out, _ = audited
    summary = json.loads((out / "audit.json").read_text())
    scores = load_scores(out / "scores.safetensors")
    assert scores.values.shape == (3, 40) and summary["n"] == 40
    numbers = summary["queries"]
    for row in csv_rows(out / "scores.csv"):
        q, i = numbers.index(int(row["query"])), int(row["train"])
        assert float(row["score"]) == pytest.approx(float(scores.values[q, i]))
        assert float(row["predicted_change"]) == pytest.approx(float(row["score"]) / 40)
        assert row["train_label"] in ("below", "above")
    checked = csv_rows(out / "verification.csv")
    assert len(checked) == 5 * 3 == summary["verification"]["removed"] * 3
    predicted, actual = ([float(row[name]) for row in checked] for name in ("predicted", "actual"))
    assert np.corrcoef(predicted, actual)[0, 1] == pytest.approx(summary["verification"]["pearson"])
    assert summary["verification"]["pearson"] > 0.95
    own = [float(row["self_influence"]) for row in csv_rows(out / "self_influence.csv")]
    assert len(own) == 40 and own == sorted(own, reverse=True)
    assert "below" in (out / "audit.html").read_text(encoding="utf-8")


def test_the_scores_are_those_of_the_library(audited):
    out, _ = audited
    task = load_task(out.parent / "my_task.py")
    influence = wherefrom.Influence(task.model, task.train, loss=task.loss, weight_decay=0.1).fit()
    numbers = json.loads((out / "audit.json").read_text())["queries"]
    direct = influence.scores((task.queries[0][numbers], task.queries[1][numbers]))
    torch.testing.assert_close(load_scores(out / "scores.safetensors").values, direct.values)


def test_the_queries_of_largest_loss_are_taken():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=generator)
    y = (x[:, 0] > 0).long()
    model = torch.nn.Linear(2, 2).eval()
    influence = wherefrom.Influence(model, (x, y), loss="cross_entropy", weight_decay=0.1)
    losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    chosen, numbers = choose_queries(influence, (x, y), 4)
    assert numbers == sorted(losses.topk(4).indices.tolist())
    assert torch.equal(chosen[0], x[numbers])
    assert choose_queries(influence, (x, y), 30)[1] == list(range(30))


def test_an_audit_resumes(audited, tmp_path):
    calls = tmp_path / "calls.txt"
    counted = f"""
from pathlib import Path
train_it = recipe
def recipe(data, seed):
    with Path({str(calls)!r}).open("a") as stream:
        stream.write("x")
    return train_it(data, seed)
"""
    file = write(tmp_path, TABLE + counted)
    audit(file, "--out", tmp_path / "out", "--remove", 3, "--queries", 2)
    assert len(calls.read_text()) == 2 + 3  # twice with all examples: the noise of training
    audit(file, "--out", tmp_path / "out", "--remove", 5, "--queries", 2)
    assert len(calls.read_text()) == 2 + 5  # only the two that were missing
    write(
        tmp_path,
        TABLE.replace('weight_decay = "cross_entropy", 0.1', 'weight_decay = "cross_entropy", 0.2') + counted,
    )
    said = audit(file, "--out", tmp_path / "out", "--remove", 5, "--queries", 2, code=2)
    assert "StoreError" in said and "belongs to another run" in said


def test_a_task_file_is_run_as_it_is_now(tmp_path):
    """Not as Python keeps it compiled: another text of the same length, written within the same second."""
    file = tmp_path / "changing.py"
    for value in (1, 2):
        file.write_text(f"value = {value}\n")
        assert run_python(file, "value").value == value
    assert not (tmp_path / "__pycache__").exists()


def test_what_else_is_on_the_page_knows_the_verdict_of_retraining(tmp_path):
    (answer,) = run_study(
        Audit(queries=2, remove=4, shape=True), load_task(write(tmp_path, TABLE)), tmp_path / "out"
    )
    verdict = answer.result.trust.retraining
    found = {type(one).__name__: one.trust.retraining for one in answer.result.embedded.results}
    assert verdict is not None and found["SpectrumResult"] == verdict
    assert found["GeometryResult"] is None  # which describes the model, and predicts nothing


def test_texts_and_a_task_function(tmp_path):
    audit(write(tmp_path, TEXT), "--out", tmp_path / "out", "--remove", 2)
    html = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "Words" in html and "awful fine" in html and "<blockquote" in html


def test_without_a_recipe_nothing_is_retrained(tmp_path):
    file = write(tmp_path, TABLE + "\ndel recipe\n")
    said = audit(file, "--out", tmp_path / "out", "--queries", 1)
    assert "Not checked" in said
    assert not (tmp_path / "out" / "run" / "retrained").exists()
    assert not (tmp_path / "out" / "verification.csv").exists()


def test_only_the_examples_of_largest_loss_are_ranked_where_asked(tmp_path):
    file = write(tmp_path, TABLE)
    options = ("--out", tmp_path / "out", "--remove", 0, "--queries", 1)
    audit(file, *options, "--review", 6)
    task = load_task(file)
    losses = torch.nn.functional.cross_entropy(task.model(task.train[0]), task.train[1], reduction="none")
    ranked = {int(row["train"]) for row in csv_rows(tmp_path / "out" / "self_influence.csv")}
    assert ranked == set(losses.topk(6).indices.tolist())
    assert "Ranked were 6 of the" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    audit(file, *options, "--review", 0)
    assert "Examples to review" not in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


def test_several_tasks_share_a_page(tmp_path):
    task = load_task(write(tmp_path, TABLE))
    others = [
        task_from({**_values(task), "name": name}, source="test", default_name="")
        for name in ("One", "The two")
    ]
    results = run_study(Audit(queries=1, remove=0), others, tmp_path / "out")
    assert [result.folder.name for result in results] == ["one", "the-two"]
    assert all((result.folder / "scores.csv").is_file() for result in results)
    html = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "The two" in html


def _values(task):
    return {name: getattr(task, name) for name in ("model", "train", "queries", "loss")} | dict(task.options)


@pytest.mark.slow
def test_the_example(tmp_path):
    said = audit(EXAMPLE, "--out", tmp_path / "out", "--remove", 2, "--queries", 2)
    assert "Digits, 64-16-10" in said and "██" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("x = 1", "does not define model, train, queries, loss"),
        ("model = train = queries = None", "does not define loss"),
        ("def broken(:", "cannot be loaded: line 1"),
        ("a = 1\nb = a + nothing", "cannot be loaded: line 2: NameError"),
        ("def task():\n    return 3", "task() returned a int"),
        (
            "def task():\n    return {'model': 1, 'train': 1, 'queries': 1, 'loss': 1, 'los': 2}",
            "gives 'los'; expected only",
        ),
        (TABLE + "\nrecipe = 3", "recipe is a int"),
        (TABLE + "\nloss = 'cross'", "loss"),
        (TABLE + "\nqueries = (x[:2], y[:2] + 9)", "queries"),
        (TABLE + "\nmodel = 'no model'", "model is a str"),
        (TABLE + "\ndescribe_train = lambda i: 3", "a describe function returned a int"),
    ],
)
def test_what_is_wrong_is_said_in_a_panel(tmp_path, text, words):
    file = tmp_path / "my_task.py" if text is None else write(tmp_path, text)
    said = audit(file, "--out", tmp_path / "out", "--remove", 0, code=2)
    assert words in said, said
    assert "InputError" in said and "Traceback" not in said


def test_a_file_that_is_not_python_is_refused(tmp_path):
    said = audit(write(tmp_path, "", name="task.txt"), "--out", tmp_path / "out", code=2)
    assert "is not a Python file" in said


@pytest.mark.parametrize("option", ["--top", "--queries"])
def test_numbers_out_of_range_are_refused(tmp_path, option):
    assert "expected at least 1" in audit(
        write(tmp_path, TABLE), "--out", tmp_path / "out", option, 0, code=2
    )
    with pytest.raises(InputError, match="remove=-1"):
        Audit(remove=-1)
    with pytest.raises(InputError, match="review=-1"):
        Audit(review=-1)


def test_an_error_of_the_users_own_code_has_its_own_status(tmp_path):
    file = write(tmp_path, TABLE + "\ndef recipe(data, seed):\n    raise KeyError('no such thing')")
    said = audit(file, "--out", tmp_path / "out", "--remove", 1, "--queries", 1, code=1)
    assert "KeyError" in said and "--traceback" in said and "Traceback" not in said
    options = ["--out", str(tmp_path / "out"), "--remove", "1", "--queries", "1", "--traceback"]
    result = CliRunner().invoke(app, ["audit", str(file), *options])
    assert isinstance(result.exception, KeyError)


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file where a directory is wanted")
    said = audit(write(tmp_path, TABLE), "--out", tmp_path / "out", "--remove", 0, code=2)
    assert "StoreError" in said and "could not be written" in said
