"""`wherefrom change`: edits as they are written, predicted and carried out; files, page and errors."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import wherefrom
from tests.cli.audit_problem import TABLE, TEXT, csv_rows, run, write
from wherefrom.errors import InputError
from wherefrom.studies.change.edit_words import parse_indices, parse_label, parse_pair, parse_times


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("change")
    ids = folder / "ids.txt"
    ids.write_text("# the suspects\n4\n6, 9\n")
    edits = ["--remove", "3,10-12", "--remove", f"@{ids}", "--relabel", "5=above", "--upweight", "8=2"]
    out = folder / "out"
    ran = run("change", write(folder, TABLE), "--out", out, *edits, "--retrain", "--queries", 5)
    assert ran.exit_code == 0, ran.output
    return ran.output, out


def test_the_files_say_what_retraining_does(changed):
    _, out = changed
    rows = csv_rows(out / "change.csv")
    summary = json.loads((out / "change.json").read_text())
    assert len(rows) == 5 and [int(row["query"]) for row in rows] == summary["queries"]
    assert [one["train"] for one in summary["edited"]] == [3, 10, 11, 12, 4, 6, 9, 5, 8]
    assert {one["done"] for one in summary["edited"]} == {"removed", "relabelled above", "counts 2 times"}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0).long()
    edited = y[:40].clone()
    edited[5] = 1
    kept = [i for i in range(40) if i not in (3, 10, 11, 12, 4, 6, 9)] + [8]
    recipe = wherefrom.FullBatch(nn.Linear(3, 2), loss="cross_entropy", weight_decay=0.1)
    losses = []
    for data in ((x[:40], y[:40]), (x[kept], edited[kept])):
        model = recipe(data, 0)
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(model(x[40:]), y[40:], reduction="none"))
    for row in rows:
        q = int(row["query"])
        assert float(row["before"]) == pytest.approx(float(losses[0][q]), abs=1e-5)
        actual = float(losses[1][q] - losses[0][q])
        assert float(row["actual"]) == pytest.approx(actual, abs=1e-5)
        assert float(row["predicted"]) == pytest.approx(actual, rel=0.1, abs=1e-3)
    assert summary["relative_error"] < 0.1


def test_terminal_and_page(changed):
    output, out = changed
    assert max(len(line) for line in output.splitlines() if str(out) not in line) <= 80
    assert "Remove 4 training examples" in output and "retrained" in output and "Retraining" in output
    page = (out / "change.html").read_text()
    assert "What was edited" in page and "relabelled above" in page and "Predicted against actual" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_a_group_that_grows(tmp_path):
    out = tmp_path / "out"
    arguments = ["--remove", "3,10-12,4,6", "--grow", "1,3,6", "--retrain", "--queries", 4]
    ran = run("change", write(tmp_path, TABLE), "--out", out, *arguments)
    assert ran.exit_code == 0, ran.output
    assert max(len(line) for line in ran.output.splitlines() if str(out) not in line) <= 80
    assert "As the group grows" in ran.output
    rows = csv_rows(out / "growth.csv")
    assert [row["removed"] for row in rows] == ["1", "3", "6"]
    for row in rows:
        assert float(row["predicted"]) == pytest.approx(float(row["actual"]), rel=0.01, abs=1e-5)
    everything = [float(row["actual"]) for row in csv_rows(out / "change.csv")]
    assert float(rows[-1]["actual"]) == pytest.approx(sum(everything) / 4)
    page = (out / "change.html").read_text()
    assert "As the group grows" in page and "polyline" in page


OWN = """
def change(influence):
    return influence.replace([2], (x[40:41], y[40:41])).add((x[41:43], y[41:43])).upweight([7], 3)
"""


def test_a_task_file_writes_edits_of_its_own(tmp_path):
    out = tmp_path / "out"
    ran = run("change", write(tmp_path, TABLE + OWN), "--out", out, "--remove", "3", "--retrain")
    assert ran.exit_code == 0, ran.output
    summary = json.loads((out / "change.json").read_text())
    done = {one["train"]: one["done"] for one in summary["edited"]}
    assert done == {3: "removed", 2: "another content", 7: "counts 3 times"}
    assert "add 2 new" in summary["intervention"] and summary["relative_error"] < 1e-3
    for text, words in (
        ("change = 5", "change is a int"),
        ("change = lambda influence: 5", "returned a int"),
    ):
        ran = run("change", write(tmp_path, TABLE + text), "--out", out)
        assert ran.exit_code == 2 and words in " ".join(ran.output.split())


@pytest.mark.parametrize("order", ["first", "second", "newton", "optimum"])
def test_orders_and_reductions_without_retraining(tmp_path, order):
    out = tmp_path / "out"
    arguments = ["--remove", "1", "--order", order, "--reduction", "sum", "--queries", 2]
    ran = run("change", write(tmp_path, TABLE), "--out", out, *arguments)
    assert ran.exit_code == 0, ran.output
    summary = json.loads((out / "change.json").read_text())
    assert (summary["order"], summary["reduction"]) == (order, "sum") and "retrained:" not in ran.output
    assert "actual" not in csv_rows(out / "change.csv")[0]


def test_texts_can_be_removed(tmp_path):
    ran = run("change", write(tmp_path, TEXT), "--out", tmp_path / "out", "--remove", "0")
    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing is changed"),
        (["--remove", "five"], "expected indices such as"),
        (["--remove", "9-3"], "the range ends before it begins"),
        (["--remove", ","], "names no training example"),
        (["--remove", "@absent.txt"], "cannot be read"),
        (["--remove", "40"], "40 is outside the training set"),
        (["--remove", "3,3"], "named twice"),
        (["--remove", "5,6", "--grow", "1,x"], "expected numbers such as"),
        (["--remove", "5,6", "--grow", "3"], "expected sizes from 1 to 2"),
        (["--relabel", "5=1", "--grow", "1"], "expected --remove with the ranking"),
        (["--relabel", "5"], "expected INDICES=VALUE"),
        (["--relabel", "5=round"], "is no label"),
        (["--relabel", "5=7"], "7 is none of the 2 classes; expected 0 to 1, or one of below, above"),
        (["--upweight", "5=often"], "is no number"),
        (["--upweight", "5=-1"], "times"),
        (["--remove", "5", "--relabel", "5=1"], "removed and given another content"),
        (["--remove", "5", "--order", "third"], "order='third'"),
        (["--remove", "5", "--reduction", "max"], "reduction='max'"),
        (["--remove", "5", "--queries", "0"], "queries=0"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, arguments, words):
    ran = run("change", write(tmp_path, TABLE), "--out", tmp_path / "out", *arguments)
    assert ran.exit_code in (1, 2)
    assert words in " ".join(ran.output.replace("│", " ").split()), ran.output


def test_retraining_needs_a_recipe(tmp_path):
    task = write(tmp_path, TABLE + "\ndel recipe\n")
    ran = run("change", task, "--out", tmp_path / "out", "--remove", "5", "--retrain")
    assert ran.exit_code == 2 and "needs a recipe" in ran.output


def test_words_of_edits(tmp_path):
    assert parse_indices("17, 212,10-12", "--remove") == [17, 212, 10, 11, 12]
    file = tmp_path / "ids"
    file.write_text("1\n2-3 # and more\n\n")
    assert parse_indices(f"@{file}", "--remove") == [1, 2, 3]
    assert parse_pair("5,6=cat", "--relabel", "5=3") == ([5, 6], "cat")
    assert parse_label("cat", ["dog", "cat"]) == 1 and parse_label("3", None) == 3
    assert [parse_label(name, ["ham", "spam"], signed=True) for name in ("ham", "spam", "1")] == [-1, 1, 1]
    assert parse_label("0.5", None) == 0.5 and parse_times("2") == 2.0
    with pytest.raises(InputError, match="dog, cat"):
        parse_label("cow", ["dog", "cat"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--remove", "40"],
        ["--relabel", "5=7"],
        ["--relabel", "5=round"],
        ["--upweight", "99=2"],
        ["--remove", "5", "--relabel", "5=1"],
        ["--remove", "5", "--grow", "9"],
        ["--remove", "5", "--solver", "no such solver"],
        [],
    ],
)
def test_edits_and_solvers_are_checked_before_anything_is_fitted(tmp_path, monkeypatch, arguments):
    def fitted(self):
        raise AssertionError("the fit was started")

    monkeypatch.setattr(wherefrom.Influence, "fit", fitted)
    ran = run("change", write(tmp_path, TABLE), "--out", tmp_path / "out", *arguments)
    assert ran.exit_code == 2 and "InputError" in ran.output and not (tmp_path / "out").exists()


def test_the_page_shows_the_text_of_the_query_and_what_is_not_resolved(tmp_path):
    out = tmp_path / "out"
    ran = run("change", write(tmp_path, TEXT), "--out", out, "--remove", "0,1,2,3,4", "--order", "first")
    assert ran.exit_code == 0, ran.output
    page = (out / "change.html").read_text(encoding="utf-8")
    assert "good awful" in page and "How far to trust this: the model is at a minimum" in page
    assert "How far to trust this" in ran.output
    summary = json.loads((out / "change.json").read_text())
    assert summary["trust"]["level"] == "good" and summary["trust"]["words"] in " ".join(page.split())
    rows = csv_rows(out / "change.csv")
    assert [row["resolved"] == "True" for row in rows] == summary["resolved"]
    for row, reason in zip(rows, summary["reasons"]):
        assert (row["reason"] == reason) and (reason == "") == (row["resolved"] == "True")
        if reason:
            assert f"not resolved: {reason}" in page and "?" in ran.output
        if float(row["before"]) + float(row["predicted"]) < 0:
            assert "negative loss" in reason
