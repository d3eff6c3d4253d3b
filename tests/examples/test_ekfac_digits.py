"""The EK-FAC example, at a size that takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import wherefrom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import ekfac_digits


@pytest.mark.slow
def test_the_example_runs_and_says_how_far_it_is_from_the_full_curvature(tmp_path, capsys):
    found = ekfac_digits.main(["--out", str(tmp_path), "--train", "150", "--queries", "3", "--remove", "4"])
    said = capsys.readouterr().out
    for expected in ("predicted", "capture", "convolution", "linear", "Pearson"):
        assert expected in said, expected
    assert (tmp_path / "report.html").is_file()
    # The distance that was probed on a few queries is that which conjugate gradients then find.
    assert 0.5 * found["relative_error"] < found["distance"] < 2 * found["relative_error"]
    assert -1 <= found["pearson"] <= 1 and found["pearson_full"] > 0


def test_the_full_curvature_of_the_example_is_the_dense_one():
    """Conjugate gradients, preconditioned by EK-FAC and damped layer by layer, against a factorisation."""
    x, y = ekfac_digits.digits()
    problem = ekfac_digits.prepare(x, y, n_train=60, n_queries=2)
    solvers = (wherefrom.CG(rtol=1e-10, preconditioner=wherefrom.EKFAC()), wherefrom.Exact())
    iterated, dense = (ekfac_digits.fit(problem, solver).scores(problem.queries) for solver in solvers)
    torch.testing.assert_close(
        iterated.values, dense.values, rtol=1e-6, atol=1e-6 * float(dense.values.norm())
    )


def test_mnist_where_it_is(data_folder):
    if data_folder is None:
        pytest.skip("MNIST is not beside the repository")
    x, y = ekfac_digits.mnist(data_folder, 40)
    assert x.shape == (40, 1, 28, 28) and y.shape == (40,) and float(x.min()) >= 0 and float(x.max()) <= 1
    outputs = ekfac_digits.network(28).double()(x)
    assert outputs.shape == (40, 10)
