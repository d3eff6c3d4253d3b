"""The page of all experiments: what a module offers, what a failure looks like, what is kept."""

import argparse
import json
import sys
import types

import all_figures
import experiment
import figure1
import pytest
import smooth_hinge
from data_files import DataError


def module(name, number=None, error=None):
    """An experiment that gives `number` or raises `error`."""
    result = types.ModuleType(name, f"Title of {name} & more.\n\nIts `caption`\nin two lines.")
    result.command = lambda: experiment.parser("one")
    result.runs = 0

    def experiment_from(options: argparse.Namespace):
        result.runs += 1
        if error is not None:
            raise error
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.png").write_bytes(b"an image")
        experiment.write({"pearson": number}, name, options)
        return {"pearson": number}

    result.experiment_from = experiment_from
    result.comparison = lambda found: [experiment.Row("9", "Pearson", "", f"{found['pearson']:.3f}")]
    return result


@pytest.fixture
def experiments(monkeypatch):
    """Three experiments, of which one lacks its data and one is wrong."""
    modules = {
        "good": module("good", 0.875),
        "no_data": module("no_data", error=DataError("spam.csv was not found")),
        "broken": module("broken", error=ZeroDivisionError("a division")),
    }
    for name, one in modules.items():
        monkeypatch.setitem(sys.modules, name, one)
    monkeypatch.setattr(all_figures, "EXPERIMENTS", (*modules, "absent"))
    return modules


def test_one_failure_does_not_stop_the_others(experiments, tmp_path, capsys):
    status = all_figures.main(["--out", str(tmp_path), "--data", str(tmp_path), "--json"])
    assert status == 1
    shown = capsys.readouterr()
    results = json.loads(shown.out)
    assert results["good"] == {"pearson": 0.875}
    assert results["no_data"] == {"error": "spam.csv was not found"}
    assert results["broken"] == {"error": "ZeroDivisionError: a division"}
    assert "ModuleNotFoundError" in results["absent"]["error"]
    assert "Traceback" in shown.err
    html = (tmp_path / "index.html").read_text()
    assert html.count("data:image/png;base64,") == 1 and html.count("This experiment failed.") == 3
    assert (
        "0.875" in html and "spam.csv was not found" in html and "http" not in html.replace("http-equiv", "")
    )
    assert "Title of good &amp; more." in html and "Its caption in two lines." in html
    assert "A quick run" not in html


def test_some_are_run_and_earlier_results_of_the_same_kind_are_kept(experiments, tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--data", str(tmp_path), "--only", "good"]
    assert all_figures.main(arguments) == 0
    assert "here: 0.875   paper: –" in capsys.readouterr().out
    assert all_figures.main([*arguments, "--keep"]) == 0
    assert experiments["good"].runs == 1
    assert all_figures.main([*arguments, "--keep", "--quick"]) == 0
    assert experiments["good"].runs == 2
    assert "A quick run" in (tmp_path / "index.html").read_text()
    with pytest.raises(SystemExit):
        all_figures.main(["--only", "unheard_of"])


def test_every_listed_experiment_offers_what_the_page_needs(tmp_path):
    for name in all_figures.EXPERIMENTS:
        one = all_figures.importlib.import_module(name)
        defaults = one.command().parse_args(["--out", str(tmp_path)])
        assert defaults.out == tmp_path and not defaults.quick
        assert callable(one.experiment_from) and callable(one.comparison)
        title, *paragraphs = one.__doc__.strip().split("\n\n")
        assert "\n" not in title and paragraphs


def test_rows_of_the_linear_figures():
    pair = {
        "without_train_loss": {"scale_ratio": 9.0},
        "without_hessian": {"helpful_share_of_same_label": 1.0},
        "influence": {"helpful_share_of_same_label": 0.5},
    }
    rows = figure1.comparison({f"{a}-vs-{b}": pair for a, b in figure1.PAIRS})
    assert [row.here for row in rows[:2]] == ["9.0×", "100% (50%)"]
    solver = {"pearson": 0.99912, "spearman": 0.998, "slope": 1.0}
    figure2 = all_figures.importlib.import_module("figure2")
    rows = figure2.comparison(dict.fromkeys(("exact", "cg", "lissa"), solver))
    assert rows[0].here == "0.99912 (0.99800), slope 1.000"
    rows = smooth_hinge.comparison({f"t={t:g}": {"pearson": 0.9 + t} for t in smooth_hinge.TEMPERATURES})
    assert [(row.paper, row.here) for row in rows][1] == ("0.950", "0.901")
