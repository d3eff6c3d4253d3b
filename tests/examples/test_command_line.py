"""Options, the one JSON object, the page, and the error for absent data."""

import argparse
import json
import sys

import experiment
import numpy as np
import pytest
import smooth_hinge
from mnist import DataError


def test_data_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("WHEREFROM_DATA", str(tmp_path))
    assert experiment.parser("x").parse_args([]).data == tmp_path


def test_absent_data_say_how_to_give_them(monkeypatch, tmp_path):
    monkeypatch.delenv("WHEREFROM_DATA", raising=False)
    monkeypatch.setattr(experiment, "REPOSITORY", tmp_path / "repository")
    assert experiment.default_data() is None
    with pytest.raises(DataError, match="--data DIR, or set the environment variable WHEREFROM_DATA"):
        experiment.require_data(None)
    with pytest.raises(DataError, match="does not exist"):
        experiment.require_data(tmp_path / "nowhere")


def test_missing_files_end_a_run_with_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["smooth_hinge.py", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit, match=r"error: .*was not found"):
        experiment.run(smooth_hinge.main)


def test_agreement():
    actual = np.array([1.0, 2.0, 4.0])
    numbers = experiment.agreement(2 * actual + 1, actual)
    assert numbers["pearson"] == pytest.approx(1) and numbers["spearman"] == pytest.approx(1)
    assert numbers["slope"] == pytest.approx(2)
    assert numbers["relative_error"] == pytest.approx(np.linalg.norm(actual + 1) / np.linalg.norm(actual))
    with pytest.raises(ValueError, match="at least 3"):
        experiment.agreement(actual[:2], actual[:2])


def test_results_are_shown_as_lines_or_as_one_json_object(capsys, tmp_path):
    result = {"exact": {"pearson": 0.9987654321}, "n": 5}
    options = argparse.Namespace(out=tmp_path / "new", json=False, quick=True)
    experiment.write(result, "numbers", options)
    assert json.loads((tmp_path / "new" / "numbers.json").read_text()) == {**result, "quick": True}
    experiment.show(result, options)
    assert "pearson" in capsys.readouterr().out
    options.json = True
    experiment.show(result, options)
    assert json.loads(capsys.readouterr().out) == result


def test_smooth_hinge_from_the_command_line(data_folder, tmp_path, capsys):
    if data_folder is None:
        pytest.skip("MNIST is not beside the repository")
    smooth_hinge.main(["--data", str(data_folder), "--out", str(tmp_path), "--json", "--quick"])
    result = json.loads(capsys.readouterr().out)
    assert result["t=0.001"]["pearson"] > 0.9
    assert {path.name for path in tmp_path.iterdir()} == {
        f"smooth_hinge.{end}" for end in ("json", "png", "svg")
    }
