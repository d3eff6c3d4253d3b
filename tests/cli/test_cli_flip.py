"""`wherefrom flip`: sets in the terminal, as files and as a page; errors."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import wherefrom
from tests.cli.audit_problem import TABLE, TEXT, csv_rows, run, write
from wherefrom.interventions import Confirmation, FlipSet
from wherefrom.studies.flip.study import outcome_words


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip")
    task, out = write(folder, TABLE), folder / "out"
    ran = run("flip", task, "--out", out, "--max-share", "0.3")
    assert ran.exit_code == 0, ran.output
    return ran.output, out, task


def test_the_sets_in_the_files_flip_the_predictions(flipped):
    _, out, _ = flipped
    summary = json.loads((out / "flip.json").read_text())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0).long()
    recipe = wherefrom.FullBatch(nn.Linear(3, 2), loss="cross_entropy", weight_decay=0.1)
    found = [one for one in summary["sets"] if one["size"] is not None]
    assert found and summary["largest_set"] == 12 and summary["order"] == "newton"
    for one in found:
        kept = [i for i in range(40) if i not in one["indices"]]
        label = int(recipe((x[kept], y[kept]), 0)(x[40 + one["query"]][None]).argmax())
        assert label != one["predicted"] and one["confirmed_size"] == one["size"] == len(one["indices"])
    rows = csv_rows(out / "flips.csv")
    assert len(rows) == 20
    assert [row["size"] for row in rows] == [str(one["size"] or "") for one in summary["sets"]]
    robustness = summary["robustness"]
    assert robustness["shares"] == pytest.approx([0.03, 0.15, 0.3])
    assert robustness["predicted"][-1] == len(found) / 20 == robustness["confirmed"][-1]


def sets_of(out):
    return json.loads((out / "flip.json").read_text())["sets"]


def test_terminal_and_page(flipped):
    output, out, _ = flipped
    assert max(len(line) for line in output.splitlines() if str(out) not in line) <= 80
    assert "of 20 predictions are predicted to fall" in " ".join(output.split()) and "flipped" in output
    smallest = min((one["size"], one["query"]) for one in sets_of(out) if one["size"] is not None)
    plural = "" if smallest[0] == 1 else "s"
    assert f"rests on training example{plural} " in " ".join(output.split())
    page = (out / "flip.html").read_text()
    assert f"{f'{100 * smallest[0] / 40:#.2g}'.rstrip('.')} % of the training set" in page
    assert "The predictions that rest on the fewest examples" in page and "confirmed" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_a_second_run_reads_the_retrainings_of_the_first(flipped):
    _, out, task = flipped
    kept = sorted(path.stat().st_mtime_ns for path in (out / "run").rglob("*without*.json"))
    assert kept
    assert run("flip", task, "--out", out, "--max-share", "0.3").exit_code == 0
    assert sorted(path.stat().st_mtime_ns for path in (out / "run").rglob("*without*.json")) == kept


def test_without_retraining_and_with_fewer_queries(tmp_path):
    task, out = write(tmp_path, TABLE + "\ndel recipe\n"), tmp_path / "out"
    ran = run("flip", task, "--out", out, "--max-share", "0.3", "--queries", 7, "--top", 2)
    assert ran.exit_code == 0, ran.output
    summary = json.loads((out / "flip.json").read_text())
    assert summary["queries"] == 7 and summary["robustness"]["confirmed"] is None
    assert "not asked" in ran.output
    again = run("flip", task, "--out", tmp_path / "other", "--confirm")
    assert again.exit_code == 2 and "defines no recipe" in " ".join(again.output.split())


def test_nothing_found_is_said(tmp_path):
    task = write(
        tmp_path, TABLE + "\nqueries = (3 * torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), y[:1])\n"
    )
    ran = run("flip", task, "--out", tmp_path / "out", "--no-confirm")
    assert ran.exit_code == 0, ran.output
    assert "Look further with a larger" in " ".join(ran.output.split())
    assert "No set of up to 1 training example is" in (tmp_path / "out" / "flip.html").read_text()


def test_texts_are_shown(tmp_path):
    ran = run("flip", write(tmp_path, TEXT), "--out", tmp_path / "out", "--max-share", "0.5")
    assert ran.exit_code == 0, ran.output


def test_what_retraining_said_in_words():
    def one(check: Confirmation | None) -> FlipSet:
        return FlipSet(0, 0, 1, tuple(range(9)), 2, 2, 1.0, -0.1, 50, confirmation=check)

    assert outcome_words(one(None)) == ("muted", "not asked")
    assert outcome_words(one(Confirmation(2, -0.1, 1, (2,)))) == ("good", "flipped")
    assert outcome_words(one(Confirmation(3, -0.1, 1, (2, 3)))) == ("fair", "flipped by 3")
    assert outcome_words(one(Confirmation(None, 0.1, 0, (2, 3)))) == ("poor", "not flipped")
    lost = Confirmation(None, None, None, (2,), failed={2: "gave up"})
    assert outcome_words(one(lost)) == ("poor", "no run converged")
    assert outcome_words(one(Confirmation(None, None, None, (), stable=False))) == ("fair", "differs anyway")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--queries", "0"], "queries=0"),
        (["--top", "0"], "top=0"),
        (["--retrainings", "0"], "retrainings=0"),
        (["--max-share", "0"], "max_share=0"),
        (["--max-share", "1"], "max_share=1"),
    ],
)
def test_bad_options_are_refused(tmp_path, arguments, words):
    ran = run("flip", write(tmp_path, TABLE), "--out", tmp_path / "out", *arguments)
    assert ran.exit_code == 2 and words in ran.output


def test_a_loss_without_classes_is_refused(tmp_path):
    text = TABLE.replace('"cross_entropy", 0.1', '"squared_error", 0.1').replace(
        ").long()", ").double()[:, None]"
    )
    task = write(tmp_path, text.replace("nn.Linear(3, 2)", "nn.Linear(3, 1)"))
    ran = run("flip", task, "--out", tmp_path / "out")
    assert ran.exit_code == 2 and "predicts no class" in " ".join(ran.output.split())
