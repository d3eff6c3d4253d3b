"""`wherefrom slices` on a small task: terminal at 80 columns, files, page, and every refusal."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.cli.audit_problem import TABLE, csv_rows, run, write
from wherefrom.cli.main import app
from wherefrom.cli.task_file import load_task
from wherefrom.errors import InputError
from wherefrom.studies.runner import run_study
from wherefrom.studies.slices.study import Slices

GROUPS = """
train_groups = ["first site" if i < 8 else "second site <b>" for i in range(40)]
query_groups = ["young" if i % 3 else "old" for i in range(20)]
"""
VALIDATION = """
validation = (x[40:], y[40:])
"""


def invoke(folder, text, *arguments):
    return run("slices", write(folder, text), "--out", folder / "out", *arguments)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    return folder / "out", invoke(folder, TABLE + GROUPS + VALIDATION, "--top", "3", "--clusters", "6")


def test_the_terminal_shows_groups_and_clusters_in_80_columns(ran):
    _, result = ran
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "slices.html" not in line]
    assert max(map(len, lines)) <= 80
    for text in ("young: 13 queries, mean loss", "old: 7 queries", "first site", "second site <b>", "32*"):
        assert text in result.output
    assert "Most harmful one by one" in result.output and "None of the 6 clusters" in result.output
    assert "5 more clusters that harm less, or help." in result.output and "by the solver." in result.output
    assert "a direction, no reliable size" in result.output


def test_the_files_hold_every_number(ran):
    out, _ = ran
    rows = csv_rows(out / "slices.csv")
    assert len(rows) == 4 and {row["query_group"] for row in rows} == {"young", "old"}
    for row in rows:
        assert float(row["change"]) == pytest.approx(float(row["per_example"]) * int(row["train_count"]))
    carriers = csv_rows(out / "carriers.csv")
    assert [row["rank"] for row in carriers] == ["1", "2", "3"] * 2
    clusters, members = csv_rows(out / "clusters.csv"), csv_rows(out / "members.csv")
    assert len(clusters) == 6 and sorted(int(row["train"]) for row in members) == list(range(40))
    harm = dict.fromkeys(range(1, 7), 0.0)
    for row in members:
        harm[int(row["cluster"])] += float(row["harm"])
    assert [-float(row["change"]) for row in clusters] == pytest.approx(list(harm.values()), abs=1e-12)
    summary = json.loads((out / "slices.json").read_text())
    assert len(summary["slices"]) == 4 and len(summary["clusters"]) == 6 and summary["settings"]["n"] == 40


def test_the_page_escapes_names_and_loads_nothing(ran):
    out, _ = ran
    page = (out / "slices.html").read_text()
    assert "second site &lt;b&gt;" in page and "second site <b>" not in page
    assert "Groups: who carries whose error" in page and "Clusters that hurt together" in page
    assert "http" not in page.replace("http-equiv", "") and 'class="n heat ' in page


def test_groups_alone_and_a_validation_set_alone(tmp_path):
    result = invoke(tmp_path, TABLE + "train_groups = [i % 2 for i in range(40)]")
    assert result.exit_code == 0, result.output
    assert "all queries" in result.output and "Clusters" not in result.output
    assert not (tmp_path / "out" / "clusters.csv").exists()
    other = tmp_path / "other"
    other.mkdir()
    result = invoke(other, TABLE + VALIDATION, "--solver", "cg")
    assert result.exit_code == 0, result.output
    assert "Clusters that hurt together" in result.output
    assert not (other / "out" / "slices.csv").exists()


def test_an_audit_shows_the_groups_a_task_names(tmp_path):
    file = write(tmp_path, TABLE + GROUPS)
    arguments = ["audit", str(file), "--out", str(tmp_path / "out"), "--remove", "0", "--review", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Groups: who carries whose error" in (tmp_path / "out" / "audit.html").read_text()
    assert len(csv_rows(tmp_path / "out" / "slices.csv")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines no groups"),
        ('query_groups = ["a"] * 20', "query_groups is given without train_groups"),
        ('train_groups = ["a"] * 39', "train_groups names 39 examples, but there are 40"),
        ('train_groups = ["a"] * 40\nquery_groups = ["a"] * 3', "query_groups names 3 examples"),
        ("train_groups = [None] * 40", "example 0 is None"),
    ],
)
def test_tasks_that_cannot_be_sliced(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        run_study(Slices(), load_task(write(tmp_path, TABLE + text)), tmp_path / "out")
    assert invoke(tmp_path, TABLE + text).exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top": 0}, "top=0"), ({"clusters": 1}, "clusters=1"), ({"clusters": -2}, "clusters=-2")],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        Slices(**options)
