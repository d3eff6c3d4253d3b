"""Stopping because the scores have settled: within the tolerance asked for, and said so."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Counting, Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.linalg import DenseOperator, LinearOperator
from wherefrom.solvers import CG, Exact

N, P = 160, 120


def problem(
    seed: int = 0, decay: float = 0.7, damping: float = 1e-3, columns: int = 3
) -> tuple[LinearOperator, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Operator, dense matrix, queries and training gradients, with a spectrum that falls."""
    scale = torch.arange(1, P + 1, dtype=torch.float64) ** -decay
    rows = gaussian(N, P, seed) * scale
    dense = rows.T @ rows / N + damping * torch.eye(P, dtype=torch.float64)
    queries = gaussian(columns, P, seed + 1) * scale
    return Gram(rows).damped(damping), dense, queries.T, rows.T


@given(
    seed=st.integers(0, 1000),
    decay=st.floats(0.3, 1.5),
    damping=st.sampled_from([1e-2, 1e-3, 1e-4]),
    score_rtol=st.sampled_from([1e-1, 1e-2, 1e-3]),
    columns=st.sampled_from([1, 2, 8]),
)
@settings(max_examples=30)
def test_scores_of_examples_that_were_not_watched_are_within_the_tolerance(
    seed, decay, damping, score_rtol, columns
):
    operator, dense, rhs, train = problem(seed, decay, damping, columns)
    prepared = CG(stop="scores", score_rtol=score_rtol, rtol=1e-10, top_k=5).prepare(operator)
    prepared.watch(train[:, ::4])
    solution = prepared.solve(rhs)
    truth = train.T @ torch.linalg.solve(dense, rhs)
    error = (train.T @ solution.x - truth).norm(dim=0) / truth.norm(dim=0)
    assert bool(solution.converged.all()), solution.reason
    assert float(error.max()) <= score_rtol


@pytest.mark.parametrize("columns", [1, 4])
def test_the_estimated_error_is_of_the_right_size(columns):
    ratios = []
    for seed in range(4):
        operator, dense, rhs, train = problem(10 * seed, columns=columns)
        truth = train.T @ torch.linalg.solve(dense, rhs)
        for score_rtol in (1e-1, 1e-2, 1e-3):
            prepared = CG(stop="scores", score_rtol=score_rtol, rtol=1e-10).prepare(operator)
            prepared.watch(train[:, ::4])
            solution = prepared.solve(rhs)
            error = (train.T @ solution.x - truth).abs()
            ratios.append(torch.einsum("pu,rpk->ruk", train, solution.error_directions).norm(dim=0) / error)
    assert 1 / 5 <= float(torch.cat(ratios).median()) <= 5


def test_it_stops_before_a_tight_residual_would_and_says_which_rule_stopped():
    operator, _, rhs, train = problem()
    scores = CG(stop="scores", score_rtol=1e-2, rtol=1e-8).prepare(operator)
    scores.watch(train[:, ::4])
    early, late = scores.solve(rhs), CG(rtol=1e-8).prepare(operator).solve(rhs)
    assert int(early.iterations.max()) < int(late.iterations.max())
    assert scores.notes["stopped_by"] == {"scores": 3, "residual": 0, "neither": 0}
    assert bool((early.relative_residual > 1e-8).all()) and early.reason == ""
    scores.solve(rhs[:, :1])
    assert scores.notes["stopped_by"]["scores"] == 4
    json.dumps(scores.notes)


def test_a_loose_residual_still_stops_first():
    operator, _, rhs, train = problem()
    prepared = CG(stop="scores", score_rtol=1e-9, rtol=0.3).prepare(operator)
    prepared.watch(train)
    solution = prepared.solve(rhs)
    assert prepared.notes["stopped_by"] == {"scores": 0, "residual": 3, "neither": 0}
    assert bool((solution.relative_residual <= 0.3).all())


def test_too_few_iterations_settle_nothing():
    operator, _, rhs, train = problem()
    prepared = CG(stop="scores", score_rtol=1e-6, rtol=1e-9, max_iterations=5).prepare(operator)
    prepared.watch(train)
    solution = prepared.solve(rhs)
    assert not bool(solution.converged.any()) and "max_iterations=5" in solution.reason
    assert prepared.notes["stopped_by"]["neither"] == 3


def test_columns_that_have_settled_are_frozen_and_zero_columns_do_no_harm():
    """Every column's result is that of the iteration at which it stopped."""
    operator, dense, rhs, train = problem(columns=6)
    rhs[:, 2] = 0
    prepared = CG(stop="scores", score_rtol=1e-3, rtol=1e-10).prepare(operator)
    prepared.watch(train[:, ::4])
    solution = prepared.solve(rhs)
    assert bool(solution.converged.all()) and float(solution.x[:, 2].norm()) == 0.0
    assert bool(torch.isfinite(solution.error_directions).all())
    truth = train.T @ torch.linalg.solve(dense, rhs)
    error = (train.T @ solution.x - truth).norm(dim=0)
    assert bool((error <= 1e-3 * truth.norm(dim=0) + 1e-12).all())


def test_a_set_of_the_largest_that_still_changes_is_not_settled():
    """With a generous tolerance the change is small at once; the top examples decide then."""
    operator, dense, rhs, train = problem(seed=3, decay=0.3, damping=1e-4, columns=1)
    truth = train.T @ torch.linalg.solve(dense, rhs)
    iterations = {}
    for top_k in (1, 40):
        prepared = CG(stop="scores", score_rtol=0.5, rtol=1e-10, top_k=top_k).prepare(operator)
        prepared.watch(train)
        solution = prepared.solve(rhs)
        iterations[top_k] = int(solution.iterations.max())
        found = (train.T @ solution.x).topk(top_k, dim=0).indices.flatten().tolist()
        expected = truth.topk(top_k, dim=0).indices.flatten().tolist()
        assert len(set(found) & set(expected)) >= 0.9 * top_k
    assert iterations[40] > iterations[1]


def test_the_block_is_split_and_with_a_preconditioner():
    operator, dense, rhs, train = problem(columns=7)
    rough = Exact().prepare(operator.damped(0.05)).as_preconditioner()
    prepared = CG(stop="scores", score_rtol=1e-3, rtol=1e-9, block=3, preconditioner=rough).prepare(operator)
    prepared.watch(train[:, ::4])
    solution = prepared.solve(rhs)
    truth = train.T @ torch.linalg.solve(dense, rhs)
    error = (train.T @ solution.x - truth).norm(dim=0) / truth.norm(dim=0)
    assert float(error.max()) <= 1e-3 and sum(prepared.notes["stopped_by"].values()) == 7


def test_watching_needs_no_products():
    operator, _, rhs, train = problem()
    counting = Counting(operator)
    prepared = CG(stop="scores", rtol=1e-9).prepare(counting)
    prepared.watch(train)
    solution = prepared.solve(rhs)
    assert counting.columns <= 3 * (int(solution.iterations.max()) + 2)


def test_without_gradients_to_watch_it_is_refused():
    operator, _, rhs, _ = problem()
    with pytest.raises(InputError, match=r"stop='scores' needs gradients to watch.*watch\(gradients\)"):
        CG(stop="scores").prepare(operator).solve(rhs)


@pytest.mark.parametrize("shape", [(P + 1, 3), (P, 0)])
def test_gradients_of_another_shape_are_refused(shape):
    operator, _, _, _ = problem()
    with pytest.raises(InputError, match=r"gradients has shape .*expected \(120, m\)"):
        CG(stop="scores").prepare(operator).watch(torch.zeros(shape, dtype=torch.float64))


def test_other_solvers_have_no_use_for_watched_gradients():
    matrix = with_spectrum([1.0, 2.0, 3.0])
    prepared = Exact().prepare(DenseOperator(matrix))
    prepared.watch(gaussian(3, 2))
    torch.testing.assert_close(prepared.solve(gaussian(3, 1)).x, torch.linalg.solve(matrix, gaussian(3, 1)))


@pytest.mark.parametrize(
    "options", [{"stop": "ranks"}, {"score_rtol": 0.0}, {"score_rtol": 1.5}, {"top_k": 0}]
)
def test_settings_out_of_range_are_refused(options):
    with as_a_user(), pytest.raises(InputError, match=next(iter(options))):
        CG(**options)


def test_settings_hold_the_rule():
    assert CG().settings()["stop"] == "residual"
    values = CG(stop="scores", score_rtol=0.01, top_k=3).settings()
    assert (values["stop"], values["score_rtol"], values["top_k"]) == ("scores", 0.01, 3)
