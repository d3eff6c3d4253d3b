"""`wherefrom audit` of a solver that treats layers apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import wherefrom
from tests.cli.audit_problem import TABLE, csv_rows, write
from wherefrom.cli.main import app
from wherefrom.influence import load_scores

NETWORK = TABLE.replace("nn.Linear(3, 2)", "nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))")
LAYERED = NETWORK + "\nsolver, damping = wherefrom.EKFAC(probes=2), wherefrom.RelativeDamping(0.2)\n"


def audit(*arguments: object, columns: int = 80, code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["audit", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def widest(said: str) -> int:
    """Columns taken; paths are never broken, and pytest's are long."""
    return max(len(line) for line in said.splitlines() if "/" not in line)


def summary(out: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((out / "audit.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    said = audit(write(folder, LAYERED), "--out", folder / "out", "--remove", 3, "--queries", 3)
    return folder / "out", said


def test_the_terminal_shows_the_plan_in_80_columns(audited):
    _, said = audited
    assert widest(said) <= 80
    for expected in (
        "Layer by layer",
        "EK-FAC inverts the curvature",
        "Probed on 2 of the",
        "linear",
        "flop",
    ):
        assert expected in said, expected
    assert "worst relative residual" not in said.lower() and "inf" not in said.replace("influence", "")


def test_the_summary_holds_plan_and_coverage(audited):
    out, _ = audited
    found = summary(out)
    assert [block["block"] for block in found["plan"]["blocks"]] == ["0", "2"]
    assert [row["rule"] for row in found["coverage"]] == ["linear", "linear"]
    assert sum(row["size"] for row in found["coverage"]) == 4 * 3 + 4 + 2 * 4 + 2 == found["settings"]["p"]
    assert found["scores"]["distance"] == pytest.approx(load_scores(out / "scores.safetensors").distance)
    assert found["settings"]["damping_per_block"].keys() == {"0", "2"}
    assert found["verification"]["removed"] == 3


def test_the_scores_are_those_of_the_library(audited):
    out, _ = audited
    from wherefrom.cli.task_file import load_task

    task = load_task(out.parent / "my_task.py")
    numbers = summary(out)["queries"]
    options = {"solver": wherefrom.EKFAC(), "damping": wherefrom.RelativeDamping(0.2)}
    influence = wherefrom.Influence(task.model, task.train, loss=task.loss, weight_decay=0.1, **options).fit()
    direct = influence.scores((task.queries[0][numbers], task.queries[1][numbers]))
    torch.testing.assert_close(load_scores(out / "scores.safetensors").values, direct.values)


def test_a_bound_that_is_not_known_is_an_empty_cell(audited):
    out, _ = audited
    rows = csv_rows(out / "scores.csv")
    assert rows and all(row["bound"] == "" and float(row["error"]) >= 0 for row in rows)


def test_retrainings_are_kept_for_any_solver(audited):
    out, _ = audited
    before = {path.name: path.stat().st_mtime_ns for path in (out / "run" / "retrained").iterdir()}
    # What an example's removal does is no matter of the solver: nothing is trained again.
    task = out.parent / "my_task.py"
    audit(task, "--out", out, "--remove", 3, "--queries", 3, "--solver", "exact")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "run" / "retrained").iterdir()}
    assert before.items() <= after.items()
    assert summary(out)["plan"] is None and summary(out)["coverage"] == []


@pytest.mark.parametrize("solver", ["kfac", "diagonal", "identity", "cg", "arnoldi", "nystrom", "lissa"])
def test_a_solver_by_its_name(tmp_path, solver):
    said = audit(
        write(tmp_path, NETWORK), "--out", tmp_path / "out", "--remove", 0, "--queries", 2, "--solver", solver
    )
    assert summary(tmp_path / "out")["settings"]["solver"] == solver
    assert ("Layer by layer" in said) == (solver in ("kfac", "diagonal", "identity"))
    assert widest(said) <= 80


def test_without_probes_the_error_reads_as_not_measured(tmp_path):
    file = write(tmp_path, NETWORK + "\nsolver = wherefrom.EKFAC(probes=0)\n")
    said = audit(file, "--out", tmp_path / "out", "--remove", 0, "--queries", 2)
    assert "Not measured" in said and "unknown" in said and "∞" not in said
    assert summary(tmp_path / "out")["scores"]["distance"] is None
    assert {row["error"] for row in csv_rows(tmp_path / "out" / "scores.csv")} == {""}
    html = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "± unknown" in html and "∞" not in html


def test_many_layers_are_cut_and_special_ones_named(tmp_path):
    middle = "*[m for _ in range(14) for m in (nn.Tanh(), nn.Linear(4, 4))]"
    deep = f"nn.Sequential(nn.Linear(3, 4), {middle}, Gain())"
    made = """
class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 2, dtype=torch.float64))
    def forward(self, x):
        return x @ self.weight
torch.manual_seed(0)
"""
    text = TABLE.replace("recipe = ", made + "recipe = ").replace("nn.Linear(3, 2)", deep)
    text = text.replace("model = recipe(train, 0).eval()", f"model = {deep}.double().eval()\ndel recipe")
    said = audit(
        write(tmp_path, text), "--out", tmp_path / "out", "--queries", 1, "--review", 0, "--solver", "ekfac"
    )
    assert "and 4 cheaper ones, listed on the page" in said
    assert "explicit gradients of 29.weight: Gain has no layer rule" in " ".join(said.split())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("solver, curvature = 'ekfac', 'hessian'", "solver='ekfac' approximates a Gauss-Newton"),
        (
            "solver, curvature, damping = 'exact', 'hessian', wherefrom.RelativeDamping(0.1)",
            "damping=RelativeDamping(0.1) takes each layer's mean eigenvalue from a Gauss-Newton",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_in_a_panel(tmp_path, wrong, words):
    file = write(tmp_path, f"{NETWORK}\n{wrong}\n")
    said = audit(file, "--out", tmp_path / "out", "--remove", 0, columns=400, code=2)
    assert words in said, said


def test_an_unknown_solver_is_refused(tmp_path):
    said = audit(write(tmp_path, TABLE), "--out", tmp_path / "out", "--solver", "magic", code=2)
    assert "solver='magic'" in said and "'ekfac'" in said
