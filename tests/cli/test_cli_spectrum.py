"""`wherefrom spectrum`: files, page, terminal, errors."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from wherefrom.cli.main import app

TASK = """
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(60, 4, dtype=torch.float64)
y = (x[:, 0] + 0.3 * torch.randn(60, dtype=torch.float64) > 0).long()
train, queries = (x[:50], y[:50]), (x[50:], y[50:])
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
loss, weight_decay, learning_rate = "cross_entropy", 0.02, 0.1
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spectrum")
    (folder / "my_task.py").write_text(TASK)
    runner = CliRunner(env={"COLUMNS": "80"})
    result = runner.invoke(
        app, ["spectrum", str(folder / "my_task.py"), "--out", str(folder / "out"), "--top", "3"]
    )
    assert result.exit_code == 0, result.output
    return result, folder / "out"


def test_files(ran):
    _, out = ran
    summary = json.loads((out / "spectrum.json").read_text())
    assert summary["p"] == 44 and len(summary["top"]["values"]) == 3
    assert summary["learning_rate"] == 0.1
    assert summary["verdict"]["level"] in ("good", "fair", "poor")
    layers = list(csv.DictReader((out / "layers.csv").read_text().splitlines()))
    assert [row["layer"] for row in layers] == ["0", "2"]
    total = sum(float(row["trace"]) for row in layers)
    assert total == pytest.approx(summary["trace"]["value"], rel=1e-6)  # both exact for so few parameters
    density = list(csv.DictReader((out / "density.csv").read_text().splitlines()))
    shares = sum(float(row["share"]) for row in density if row["start"] == "0")
    assert shares == pytest.approx(1)


def test_terminal_fits_80_columns(ran):
    result, _ = ran
    assert "Does the shape of the loss speak for influence here?" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines() if "/" not in line)


def test_page(ran):
    page = (ran[1] / "spectrum.html").read_text()
    assert "The shape of the loss" in page and "2/learning rate" in page
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_another_curvature_and_an_unknown_one(tmp_path):
    (tmp_path / "my_task.py").write_text(TASK)
    command = ["spectrum", str(tmp_path / "my_task.py"), "--out", str(tmp_path / "out"), "--steps", "8"]
    runner = CliRunner()
    assert runner.invoke(app, [*command, "--curvature", "hessian"]).exit_code == 0
    assert json.loads((tmp_path / "out" / "spectrum.json").read_text())["curvature"] == "hessian"
    refused = runner.invoke(app, [*command, "--curvature", "jacobian"])
    assert refused.exit_code == 2 and "expected one of" in refused.output


def test_an_audit_shows_the_shape_when_asked(tmp_path):
    (tmp_path / "my_task.py").write_text(TASK)
    command = ["audit", str(tmp_path / "my_task.py"), "--out", str(tmp_path / "out"), "--shape"]
    ran = CliRunner().invoke(app, [*command, "--queries", "2"])
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "The shape of the loss" in page and "steep in the parameters" in page
    assert (tmp_path / "out" / "spectrum.json").exists()
