"""`wherefrom demo` at a reduced size: every file, both models, and retraining that agrees."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import wherefrom.cli.demo
from wherefrom.cli.demo import digits_tasks
from wherefrom.cli.main import app, run_demo

SMALL = {"n_train": 300, "n_queries": 2, "hidden": 8, "softmax_removals": 4, "mlp_removals": 3}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    console = Console(width=80, record=True, file=io.StringIO())
    run_demo(console, out, **SMALL)
    return out, console.export_text()


@pytest.mark.slow
def test_both_models_are_confirmed_by_retraining(shown):
    out, _ = shown
    models = json.loads((out / "demo.json").read_text())["models"]
    assert [model["name"] for model in models] == ["Softmax regression", "MLP, 64-8-10 tanh"]
    for model, removed in zip(models, (4, 3)):
        assert model["minimum"]["verdict"] == "minimum"
        assert model["verification"]["removed"] == removed
        assert model["verification"]["pearson"] > 0.9
        assert (out / model["folder"] / "scores.csv").is_file()
    assert (out / "demo.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_terminal_is_readable_at_80_columns(shown):
    out, text = shown
    # A path is never broken: it is there to be copied.
    assert max(map(len, text.replace(str(out), "out").splitlines())) <= 80
    for expected in ("Test accuracy", "True label", "Most helpful", "Pearson", "Slope", "demo.html"):
        assert expected in text, expected


@pytest.mark.slow
def test_the_queries_are_misread_and_the_models_at_a_minimum():
    for task in digits_tasks(**SMALL):
        x, y = task["queries"]
        assert len(y) == 2
        with torch.no_grad():
            assert bool((task["model"](x).argmax(1) != y).all())
        assert task["describe_query"](0).image.shape == (8, 8)


@pytest.mark.slow
def test_the_command_keeps_the_threads_as_they_were(tmp_path, monkeypatch):
    small = digits_tasks(**SMALL)
    monkeypatch.setattr(wherefrom.cli.demo, "digits_tasks", lambda: small)
    before = torch.get_num_threads()
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == before
    assert (tmp_path / "out" / "demo.html").is_file()
