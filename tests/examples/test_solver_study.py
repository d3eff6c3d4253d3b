"""The study of the solvers, at a size that takes seconds."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

import wherefrom

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import solver_study  # noqa: E402
import study_measure  # noqa: E402
import study_problems  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> study_problems.Problem:
    images, labels = study_problems.digit_images(None)
    return study_problems.small_cnn(images, labels, 60)


def test_kept_rows_are_the_library_s_curvature(problem):
    operator = problem.influence.curvature.operator
    torch.testing.assert_close(problem.curvature.to_dense(), operator.to_dense(), rtol=1e-9, atol=1e-10)
    indices = torch.tensor([3, 3, 17, 40])
    torch.testing.assert_close(
        problem.curvature.sampled(indices).matmat(problem.queries),
        operator.sampled(indices).matmat(problem.queries),
        rtol=1e-9,
        atol=1e-10,
    )


def test_the_exact_answer_is_the_one_that_users_get(problem):
    scores = problem.influence.scores(problem.asked).values
    torch.testing.assert_close(problem.exact(0.0), scores, rtol=1e-8, atol=1e-8 * float(scores.norm()))


def test_bias_and_spread_of_numbers_whose_bias_and_spread_are_known():
    """Runs around a point that is off the exact answer by 0.3 of its norm."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    off = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    off *= 0.3 * exact.norm() / off.norm()
    noise = 0.1 * exact.norm() / math.sqrt(150)
    found = [
        exact + off + noise * torch.randn(3, 50, generator=generator, dtype=torch.float64) for _ in range(40)
    ]
    spread = study_measure.spread_of(found, exact, scale=1.0, depth=10.0, batch=4, diverged=10)
    assert spread.bias == pytest.approx(0.3, rel=0.05)
    assert spread.deviation == pytest.approx(0.1, rel=0.1)
    assert spread.rms == pytest.approx(math.hypot(0.3, 0.1), rel=0.05)
    assert spread.after(4) == pytest.approx(math.hypot(0.3, 0.05), rel=0.05)
    assert (spread.examples, spread.diverged, spread.runs) == (40.0, 0.2, 50)


def test_depth_removes_bias_and_a_small_scale_is_refused(problem):
    damping = problem.damping_for(20.0)
    _, shallow = study_measure.lissa_runs(problem, damping, 6, depth=5, batch_size=60)
    _, deep = study_measure.lissa_runs(problem, damping, 6, batch_size=60)
    assert shallow.bias > 0.2 > 2 * deep.rms / math.sqrt(6)
    found, refused = study_measure.lissa_runs(problem, damping, 2, scale=0.05 * deep.scale, depth=200)
    assert found == [] and refused.diverged == 1.0 and math.isnan(refused.rms)


def test_conjugate_gradients_reach_their_tolerance(problem):
    loose, tight = (study_measure.cg_run(problem, 0.0, rtol) for rtol in (1e-2, 1e-8))
    assert tight["error"] < 1e-5 < loose["error"] < 1 and tight["converged"] == 1.0
    assert tight["examples"] == (tight["iterations"] + 1) * problem.n > loose["examples"]


@pytest.mark.slow
def test_the_command_writes_numbers_tables_and_plots(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WHEREFROM_DATA", raising=False)
    arguments = ["--out", str(tmp_path), "--quick", "--seeds", "4", "--train", "60"]
    studies = solver_study.main(arguments)
    assert "| LiSSA, one run |" in capsys.readouterr().out
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [study["problem"] for study in kept] == ["logistic regression", "small CNN"]
    for name in ("solver-study-lissa", "solver-study-damping-cg"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000 and (tmp_path / f"{name}.svg").is_file()
    for study in studies:
        scales = {row["share"]: row for row in study["scale"]}
        assert scales[0.02]["diverged"] == 1.0 and scales[1.0]["diverged"] == 0.0
        moved = [row["moved"] for row in study["damping_sweep"]]
        assert moved[0] > moved[1]  # the more damping, the farther from the undamped answer
        assert all(row["cg"]["error"] < 1e-3 for row in study["damping_sweep"])


def test_too_few_seeds_are_refused(capsys):
    with pytest.raises(SystemExit):
        solver_study.main(["--seeds", "1"])
    assert "--seeds must be at least 4" in capsys.readouterr().err


def test_the_defaults_are_those_that_the_study_speaks_for():
    lissa = wherefrom.LiSSA()
    assert (lissa.repeats, lissa.batch_size, lissa.bias) == (6, 64, 1e-2)
    assert wherefrom.CG().rtol == 1e-5
