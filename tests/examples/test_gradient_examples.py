"""The examples of penalties and of the monitor, at a size that takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import gradient_penalties
import training_monitor

from wherefrom.studies.geometry import read_monitor


@pytest.fixture(autouse=True)
def no_data_but_the_digits(monkeypatch):
    monkeypatch.delenv("WHEREFROM_DATA", raising=False)


def test_the_monitor_s_example_records_and_draws(tmp_path, capsys):
    training_monitor.main(["--out", str(tmp_path), "--steps", "20", "--every", "10"])
    table = read_monitor(tmp_path / "digits.jsonl")
    assert list(table.index) == [0, 10, 20] or list(table["step"]) == [0, 10, 20]
    assert (table["bounds.left"] <= table["bounds.right"]).all()
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "mnist: not found" in said and "not near zero" in said


def test_every_penalty_has_a_row_and_the_picture_is_drawn(tmp_path, capsys):
    gradient_penalties.main(["--out", str(tmp_path), "--steps", "60", "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    for name in gradient_penalties.PENALTIES:
        row = next(line for line in lines if line.startswith(name))
        accuracy = float(row[len(name) :].split()[0])
        assert 0.5 < accuracy <= 1.0  # chance is 0.1
    assert (tmp_path / "penalties.png").exists()
