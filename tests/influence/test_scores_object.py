"""`Scores`, rankings and their exports, on numbers chosen by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support import as_a_user
from wherefrom import Scores, SelfScores, load_scores, save_scores
from wherefrom.errors import InputError, NonFiniteError, StoreError
from wherefrom.store import write_tensors

VALUES = torch.tensor([[1.0, -2.0, 1.0, 0.5], [0.0, 3.0, -1.0, 3.0]])


def scores(**changes) -> Scores:
    fields = {
        "values": VALUES,
        "error": 0.01 * VALUES.abs(),
        "bound": 0.1 * VALUES.abs(),
        "bound_proven": True,
        "converged": torch.tensor([True, True]),
        "reason": "",
        "relative_residual": torch.tensor([1e-6, 2e-6]),
        "measurement": "loss",
        "settings": {"solver": "cg", "damping": 0.1},
    }
    return Scores(**{**fields, **changes})


def test_rankings_put_ties_in_the_order_of_the_training_set():
    assert scores().helpful(2, query=0).train.tolist() == [0, 2]
    assert scores().helpful(2, query=1).train.tolist() == [1, 3]
    assert scores().harmful(1).train.tolist() == [1, 2]
    assert scores().harmful(10, query=1).train.tolist() == [2, 0, 1, 3]


def test_for_a_measurement_that_is_better_high_the_sides_are_swapped():
    margin = scores(higher_is_better=True)
    assert margin.helpful(1).train.tolist() == [1, 2]
    assert margin.harmful(2, query=0).train.tolist() == [0, 2]


def test_predicted_change_and_groups():
    torch.testing.assert_close(scores().predicted_change, VALUES / 4)
    torch.testing.assert_close(scores().group([0, 3]), torch.tensor([1.5, 3.0]))
    row = next(iter(scores().helpful(1)))
    assert row["score"] == 1.0 and row["predicted_change"] == 0.25 and row["bound"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("indices", "found"),
    [
        ([], "empty"),
        ([0.0, 1.0], "float32"),
        ([True, False], "bool"),
        ([4], "4 is outside"),
        ([-1], "-1 is outside"),
        ([1, 1], "named twice"),
    ],
)
def test_impossible_groups_are_refused(indices, found):
    with as_a_user(), pytest.raises(InputError, match=found):
        scores().group(indices)


def test_impossible_rankings_are_refused():
    with pytest.raises(InputError, match="k=0"):
        scores().helpful(0)
    with pytest.raises(InputError, match=r"query=2: expected a whole number from 0 to 1"):
        scores().harmful(1, query=2)
    with as_a_user(), pytest.raises(InputError, match=r"query=-1"):
        scores().harmful(1, query=-1)


def test_exports_hold_the_same_numbers():
    made = scores()
    np.testing.assert_array_equal(made.to_numpy(), VALUES.numpy())
    table = made.to_pandas()
    assert list(table.columns) == ["query", "train", "score", "error", "bound", "predicted_change"]
    assert len(table) == 8
    assert float(table[(table["query"] == 1) & (table["train"] == 2)]["score"].iloc[0]) == -1.0
    cube = made.to_xarray()
    assert float(cube["score"].sel(query=1, train=2)) == -1.0
    assert cube.attrs["measurement"] == "loss" and cube.attrs["damping"] == "0.1"
    ranking = made.helpful(2).to_pandas()
    assert ranking["train"].tolist() == [0, 2, 1, 3] and ranking["query"].tolist() == [0, 0, 1, 1]


def test_what_is_shown_in_a_terminal_and_a_notebook():
    assert "queries=2" in repr(scores()) and "all converged" in repr(scores()) and "2.0e-06" in repr(scores())
    half = scores(converged=torch.tensor([True, False]), reason="max_iterations")
    assert "1 NOT converged" in repr(half)
    text = repr(scores().harmful(2))
    assert text.startswith("harmful") and max(map(len, text.splitlines())) <= 80
    html = scores()._repr_html_()
    assert html.count("<table>") == 2 and "helpful" in html and "harmful" in html and "-5.000e-01" in html


INFINITE = torch.full_like(VALUES, float("inf"))


def test_scores_without_a_bound_do_not_boast_of_convergence():
    probed = scores(
        error=0.25 * VALUES.abs(),
        bound=INFINITE,
        relative_residual=torch.tensor([22.0, 22.0]),
        settings={"solver": "ekfac"},
        distance=0.25,
    )
    assert probed.distance == 0.25
    assert "expected error 25 % of the scores, no bound" in repr(probed)
    assert "converged" not in repr(probed) and "residual" not in repr(probed)


def test_a_large_expected_error_is_said_beside_the_residual():
    rough = scores(error=0.3 * VALUES.abs(), relative_residual=torch.tensor([0.5, 3.8]))
    assert "expected error 30 % of the scores, worst relative residual 3.8e+00" in repr(rough)
    assert "converged" not in repr(rough)


def test_errors_that_were_not_measured_read_so():
    made = scores(
        error=INFINITE,
        bound=INFINITE,
        relative_residual=torch.full((2,), float("nan")),
        settings={"solver": "identity"},
        distance=float("inf"),
    )
    assert made.distance is None
    assert "error not measured" in repr(made)
    for text in (repr(made), repr(made.helpful(2)), made._repr_html_()):
        assert "inf" not in text.replace("influence", "") and "nan" not in text.lower()
    assert "unknown" in repr(made.helpful(2)) and "<td>unknown</td>" in made._repr_html_()
    own = SelfScores(
        index=torch.arange(4),
        values=VALUES[0],
        error=INFINITE[0],
        bound=INFINITE[0],
        converged=torch.ones(4, dtype=torch.bool),
        reason="",
        settings={"solver": "identity"},
    )
    for frame in (made.to_pandas(), made.helpful(2).to_pandas(), own.to_pandas(), made.to_xarray()):
        assert frame["error"].isnull().all() and frame["bound"].isnull().all()
    assert ",inf" not in made.to_pandas().to_csv()
    assert "error not measured" in repr(own) and "converged" not in repr(own)


def test_a_measurements_name_is_no_markup():
    assert "<b>" not in scores(measurement="<b>margin</b>")._repr_html_()


def test_a_distance_that_was_not_measured_survives_a_file_as_none(tmp_path):
    save_scores(scores(distance=float("inf"), bound=INFINITE), tmp_path / "scores")
    again = load_scores(tmp_path / "scores")
    assert again.distance is None
    assert torch.equal(again.bound, INFINITE)
    assert b"Infinity" not in (tmp_path / "scores").read_bytes()


def test_scores_survive_a_file(tmp_path):
    made = scores(settings={"solver": "cg", "damping": 0.1, "solver_notes": {"scale": 2.0}})
    save_scores(made, tmp_path / "scores.safetensors")
    again = load_scores(tmp_path / "scores.safetensors")
    for name in ("values", "error", "bound", "converged", "relative_residual"):
        assert torch.equal(getattr(again, name), getattr(made, name))
    for name in ("bound_proven", "reason", "measurement", "higher_is_better", "settings"):
        assert getattr(again, name) == getattr(made, name)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    path = tmp_path / "scores"
    with pytest.raises(StoreError, match=r"cannot be read .*Compute the scores again"):
        load_scores(path)
    with pytest.raises(StoreError, match="cannot be read"):
        load_scores(tmp_path)
    path.write_text("no scores")
    with pytest.raises(StoreError, match="has no checksum"):
        load_scores(path)
    safetensors.torch.save_file({"values": VALUES}, path, {"kind": "wherefrom-scores-1"})
    with pytest.raises(StoreError, match="has no checksum: an earlier version of Wherefrom wrote it"):
        load_scores(path)
    with pytest.raises(StoreError, match="could not be written"):
        save_scores(scores(), tmp_path)


def test_whole_files_that_hold_no_scores_are_refused(tmp_path):
    made = scores()
    tensors = {
        name: getattr(made, name) for name in ("values", "error", "bound", "converged", "relative_residual")
    }
    words = {"kind": "wherefrom-scores-2", "scores": json.dumps({"bound_proven": True, "reason": ""})}
    for change, kind, message in (
        ({}, "other", "holds no scores of this version"),
        ({"values": VALUES[0]}, None, "values is no matrix"),
        ({"bound": VALUES[:1]}, None, "bound has not the shape"),
        ({"converged": VALUES[:, 0]}, None, "converged is of dtype"),
        ({"error": VALUES * float("nan")}, None, "error holds NaN"),
        ({"values": INFINITE}, None, "values holds infinity"),
        ({}, None, "measurement is missing"),
    ):
        write_tensors(tmp_path / "s", {**tensors, **change}, {**words, "kind": kind or words["kind"]})
        with pytest.raises(StoreError, match=message):
            load_scores(tmp_path / "s")
    with pytest.raises(NonFiniteError, match="values holds infinity"):
        save_scores(scores(values=INFINITE), tmp_path / "s")
