"""`wherefrom attack`, and the poisoning section of `wherefrom audit`."""

from __future__ import annotations

import csv
import json
import re

import pytest
from safetensors.torch import load_file

from tests.cli.attack_problem import HEAD, NETWORK
from tests.cli.audit_problem import TABLE, TEXT, run, write

BUDGET = ["--budget", "48"]


def attack(folder, text=HEAD, *options):
    return run("attack", write(folder, text), "--out", folder / "out", *options)


def test_each_query_is_attacked_by_itself(tmp_path):
    result = attack(tmp_path, HEAD, *BUDGET, "--edits", "1,4", "--queries", "20")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    summary = json.loads((tmp_path / "out/attack.json").read_text())
    assert set(summary["flips"]) == {"1", "4"} and len(summary["queries"]) == 20
    assert summary["budget"]["radius"] == 48 and summary["budget"]["low"] == 0
    assert 0 < summary["flips"]["4"] <= 1
    rows = list(csv.DictReader((tmp_path / "out/attack.csv").read_text().splitlines()))
    assert len(rows) == summary["attacked"]
    flipped = [row for row in rows if row["flipped"] == "1"]
    assert len(flipped) == round(summary["flips"]["4"] * summary["attacked"])
    assert (
        "4 edited training examples" in result.stdout
        and f"{len(flipped)} of {len(rows)} flip" in result.stdout
    )
    page = (tmp_path / "out/attack.html").read_text()
    assert "difference × 10" in page and page.count("data:image/png") >= 3
    assert "<script" not in page and "http" not in re.sub(r"http-equiv", "", page)
    # A flip of the table, retrained by hand from the file of edits.
    edits = load_file(tmp_path / "out/edits.safetensors")
    row = next(row for row in flipped if f"query{row['query']}.edited" in edits)
    scope: dict = {}
    exec(HEAD, scope)
    x = scope["train"][0].clone()
    x[edits[f"query{row['query']}.train"]] = edits[f"query{row['query']}.edited"]
    model = scope["recipe"]((x, scope["train"][1]), 0)
    asked = scope["queries"][0][int(row["query"])]
    assert int(model(asked[None]).argmax()) == int(row["after"]) != int(row["before"])


def test_all_queries_are_attacked_at_once(tmp_path):
    result = attack(tmp_path, HEAD, *BUDGET, "--edits", "6", "--queries", "8", "--together")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out/attack.json").read_text())
    assert summary["targeted"] <= 8 and len(summary["edited"]) == 6
    assert summary["controls"]["count"] == 32
    assert summary["retraining"] == "by the recipe"
    assert "all queries at once" in (tmp_path / "out/attack.html").read_text()
    edits = load_file(tmp_path / "out/edits.safetensors")
    assert edits["edited"].shape == (6, 64) and edits["train"].tolist() == summary["edited"]


@pytest.mark.parametrize("solver", ["auto", "ekfac"])
def test_a_network_is_attacked_with_its_recipe(tmp_path, solver):
    text = (
        NETWORK
        if solver == "auto"
        else NETWORK.replace("damping, curvature = 0.01, 'ggn'", "solver = 'ekfac'")
    )
    result = attack(tmp_path, text, *BUDGET, "--edits", "3", "--queries", "5", "--steps", "2")
    assert result.exit_code == 0, result.output
    assert "All queries were attacked at once" in " ".join(result.stdout.split())
    summary = json.loads((tmp_path / "out/attack.json").read_text())
    assert summary["seeds"] == [0] and summary["steps"] >= 1


def test_the_default_budget_keeps_the_picture_and_may_flip_nothing(tmp_path):
    result = attack(tmp_path, HEAD, "--queries", "5", "--edits", "1", "--steps", "2")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out/attack.json").read_text())
    assert summary["budget"]["grid"] == "same" and summary["budget"]["radius"] == 0.5
    result = attack(tmp_path, HEAD, "--queries", "5", "--edits", "1", "--steps", "1", "--budget", "1e-6")
    assert result.exit_code == 0, result.output
    assert "No prediction flipped" in (tmp_path / "out/attack.html").read_text()


def test_a_norm_beside_a_whole_budget_is_refused(tmp_path):
    text = (
        HEAD + "from wherefrom.studies.attack import Budget\nattack = {'budget': Budget(0.1), 'steps': 2}\n"
    )
    result = attack(tmp_path, text, "--norm", "l2")
    assert result.exit_code == 2
    assert "beside it norm would be ignored" in " ".join(result.stderr.replace("│", " ").split())
    result = attack(tmp_path, text, "--queries", "4", "--edits", "1")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out/attack.json").read_text())["budget"]["radius"] == 0.1


@pytest.mark.parametrize(("scale", "shape", "grid"), [(1.0, (1, 8, 8), "same"), (1.3, (1, 8, 8), "free")])
def test_a_range_that_is_guessed_is_told_and_promises_no_grid_but_that_of_pictures(
    tmp_path, scale, shape, grid
):
    text = HEAD.replace("images / 16.0)", f"images * {scale} / 16.0).reshape(-1, *{shape})").replace(
        "nn.Sequential(nn.Linear(64, 24)", "nn.Sequential(nn.Flatten(), nn.Linear(64, 24)"
    )
    text = text.replace("network[0].req", "network[1].req").replace('"low": 0.0, "high": 1.0, ', "")
    result = attack(tmp_path, text, "--queries", "4", "--edits", "1", "--steps", "1")
    assert result.exit_code == 0, result.output
    # Only pictures have grey levels.
    unit = "grey level" if grid == "same" else "step"
    assert f"in the training inputs: 0 to {scale:.3f}, of which a {unit} is 1/255;" in " ".join(
        result.stdout.split()
    )
    assert json.loads((tmp_path / "out/attack.json").read_text())["budget"]["grid"] == grid
    assert ("8-bit picture stays the same" in (tmp_path / "out/attack.html").read_text()) == (grid == "same")


def test_every_seed_has_its_rows(tmp_path):
    text = HEAD + "seeds = (3, 5)\n"
    result = attack(tmp_path, text, *BUDGET, "--edits", "6", "--queries", "4", "--together")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "out/attack.csv").read_text().splitlines()))
    assert {row["seed"] for row in rows} == {"3", "5"}
    assert "on average over 2 seeds" in " ".join(result.stdout.split())


def test_tables_show_their_largest_changes(tmp_path):
    text = TABLE + 'attack = {"budget": 60, "edits": 12, "queries": 12}\nweight_decay = 0.1\n'
    result = attack(tmp_path, text)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out/attack.json").read_text())
    assert summary["flips"]["12"] > 0
    page = (tmp_path / "out/attack.html").read_text()
    assert "largest changes" in page and "above" in page and "below" in page


def test_an_audit_has_a_poisoning_section_when_asked(tmp_path):
    file = write(tmp_path, HEAD.replace('"steps": 6', '"steps": 6, "budget": 48, "queries": 12'))
    plain = run("audit", file, "--out", tmp_path / "plain", "--remove", "0", "--queries", "1")
    assert plain.exit_code == 0, plain.output
    assert "Poisoning" not in plain.stdout
    assert "share that flips" not in (tmp_path / "plain/audit.html").read_text()
    assert not (tmp_path / "plain/attack.json").exists()
    result = run("audit", file, "--out", tmp_path / "out", "--remove", "0", "--queries", "1", "--poison", "4")
    assert result.exit_code == 0, result.output
    assert "Poisoning" in result.stdout and "4 edited training examples" in result.stdout
    page = (tmp_path / "out/audit.html").read_text()
    assert "share that flips" in page and "labels left alone" in page
    summary = json.loads((tmp_path / "out/audit.json").read_text())
    assert set(summary["poisoning"]["flips"]) == {"1", "2", "4"}
    assert (tmp_path / "out/attack.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "radius=0"),
        (["--budget", "-3"], "radius=-3"),
        (["--edits", "0"], "edits=(0,): expected numbers"),
        (["--edits", "two"], "edits='two'"),
        (["--edits", "61"], "edits=61: expected a whole number from 1 to 60"),
        (["--norm", "l1"], "norm='l1'"),
        (["--steps", "0"], "steps=0"),
        (["--queries", "0"], "queries=0"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    result = attack(tmp_path, HEAD, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + 'attack = {"colour": 1}\n', "'colour'; expected only edits, budget"),
        (HEAD + 'attack = {"low": 0.5}\n', "outside the valid range"),
        (HEAD + "attack = 5\n", "attack is a int; expected a dict of options"),
        (HEAD + 'attack = {"edits": "1,2"}\n', "edits='1,2': expected numbers of training examples"),
        (HEAD + 'attack = {"budget": "8"}\n', "budget='8': expected a number of grey levels, or a Budget"),
        (HEAD + 'attack = {"queries": 2.5}\n', "queries=2.5: expected a whole number"),
        (HEAD + 'attack = {"levels": "many"}\n', "levels='many': expected a whole number"),
        (HEAD + 'attack = {"step_size": "small"}\n', "step_size='small': expected a number above 0"),
        (
            HEAD
            + 'from wherefrom.studies.attack import Budget\nattack = {"budget": Budget(0.1), "low": 0.0}\n',
            "beside it low would be ignored",
        ),
        (NETWORK + "recipe = None\n", "recipe= is needed to retrain this model for an attack"),
        (TEXT, "an edit cannot be written into the training set"),
    ],
)
def test_bad_tasks_are_refused(tmp_path, text, message):
    result = attack(tmp_path, text)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_an_audit_refuses_what_cannot_be_attacked_before_it_starts(tmp_path):
    result = run("audit", write(tmp_path, TEXT), "--out", tmp_path / "out", "--poison", "1")
    assert result.exit_code == 2, result.output
    assert "an edit cannot be written into the training set" in " ".join(
        result.stderr.replace("│", " ").split()
    )
    assert "scoring" not in result.stdout


def test_an_audit_refuses_a_negative_number_of_edits(tmp_path):
    result = run("audit", write(tmp_path, HEAD), "--out", tmp_path / "out", "--poison", "-1")
    assert result.exit_code == 2 and "poison=-1" in result.stderr
