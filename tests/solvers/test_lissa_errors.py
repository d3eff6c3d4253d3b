"""What LiSSA says of its bias: predicted before the steps, measured after them, never called convergence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Gram, gaussian, orthogonal, with_spectrum
from wherefrom.errors import InputError
from wherefrom.linalg import DenseOperator, LinearOperator
from wherefrom.solvers import LiSSA, Solution
from wherefrom.solvers.lissa_errors import predict

N, P = 200, 40


class CountsDraws(Gram):
    """Counts the mini-batches."""

    drawn = 0

    def sampled(self, indices: torch.Tensor) -> LinearOperator:
        CountsDraws.drawn += 1
        return super().sampled(indices)


def problem(damping: float, *, proven: bool = True) -> tuple[LinearOperator, torch.Tensor, torch.Tensor]:
    """Operator, right-hand sides like gradients, and the gradients of the examples."""
    scale = torch.arange(1, P + 1, dtype=torch.float64).rsqrt()
    turn = orthogonal(P, 1)
    data = CountsDraws((gaussian(N, P) * scale) @ turn)
    if not proven:
        data.lower_bound = -1.0
    CountsDraws.drawn = 0
    return data.damped(damping), ((gaussian(3, P, 9) * scale) @ turn).T, data.rows.T


def errors(operator: LinearOperator, rhs: torch.Tensor, u: torch.Tensor, solution: Solution):
    """Relative error of the scores, and the median of estimated over true error."""
    truth = u.T @ torch.linalg.solve(operator.to_dense(), rhs)
    error = (u.T @ solution.x - truth).abs()
    estimate = torch.einsum("pu,rpk->ruk", u, solution.error_directions).norm(dim=0)
    return float(error.norm() / truth.norm()), float((estimate / error).median())


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"depth": 1, "repeats": 10},
        {"depth": 5},
        {"depth": 40, "repeats": 1},
        {"scale": 100.0, "depth": 300, "repeats": 3},
        {"max_depth": 12},
    ],
)
def test_steps_that_were_not_taken_are_in_the_error_and_are_not_convergence(options, proven):
    operator, rhs, u = problem(0.05, proven=proven)
    solution = LiSSA(**options).prepare(operator).solve(rhs)
    relative, ratio = errors(operator, rhs, u, solution)
    assert relative > 0.15 and 1 / 3 < ratio < 3
    assert not bool(solution.converged.any())
    assert "damping" in solution.reason and (
        "is missing" in solution.reason or "max_depth=12" in solution.reason
    )


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("options", [{}, {"repeats": 3, "depth": 400}])
def test_enough_steps_are_convergence(options, proven):
    operator, rhs, u = problem(0.1, proven=proven)
    solution = LiSSA(**options).prepare(operator).solve(rhs)
    relative, ratio = errors(operator, rhs, u, solution)
    assert bool(solution.converged.all()), solution.reason
    assert relative < 0.2 and 1 / 3 < ratio < 3


def test_noise_as_large_as_the_answer_is_not_convergence():
    operator, rhs, u = problem(0.1)
    solution = LiSSA(batch_size=1, repeats=2).prepare(operator).solve(rhs)
    relative, ratio = errors(operator, rhs, u, solution)
    assert relative > 0.25 and 1 / 5 < ratio < 5
    assert not bool(solution.converged.all())
    assert "noise" in solution.reason and "batch_size" in solution.reason and "repeats=" in solution.reason


@pytest.mark.parametrize(
    ("options", "damping"),
    [
        ({"scale": 50_000.0, "depth": 5, "repeats": 10}, 0.01),
        ({"depth": 1}, 1e-4),
        ({"max_depth": 20_000, "scale": 1e9}, 1e-6),
        ({"scale": 1e9}, 0.05),
    ],
)
def test_hopeless_settings_are_refused_before_any_step(options, damping):
    operator, rhs, _ = problem(damping)
    prepared = LiSSA(**options).prepare(operator)
    CountsDraws.drawn = 0
    with pytest.raises(InputError, match=r"would leave (9\d|100)% of the answer out; no step was taken.*CG"):
        prepared.solve(rhs)
    assert CountsDraws.drawn == 0


def test_flat_directions_without_a_share_in_the_answer_take_no_steps():
    """A null space that no right-hand side reaches needs millions of steps by its eigenvalue, and none."""
    rows = torch.cat([gaussian(N, 5), torch.zeros(N, 30, dtype=torch.float64)], dim=1)
    operator, rhs = Gram(rows).damped(1e-6), rows[:3].T
    solution = LiSSA(depth=60, batch_size=100).prepare(operator).solve(rhs)
    relative, ratio = errors(operator, rhs, rows.T, solution)
    assert relative < 0.1 and 1 / 3 < ratio < 3
    assert bool(solution.converged.all()), solution.reason


@given(
    exponents=st.lists(st.floats(-3, 0), min_size=2, max_size=12, unique=True),
    depth=st.integers(1, 200),
    scale=st.floats(1.1, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_what_is_left_out_is_predicted_exactly_where_the_nodes_suffice(exponents, depth, scale, seed):
    matrix = with_spectrum([10.0**e for e in exponents], seed)
    v = gaussian(len(exponents), 1, seed)
    inverse = torch.linalg.inv(matrix)
    power = torch.linalg.matrix_power(torch.eye(len(exponents)).double() - matrix / scale, depth + 1)
    expected = float((v.T @ inverse @ power @ v) / (v.T @ inverse @ v))
    found = predict(DenseOperator(matrix), v, scale, depth, 0.01)
    assert found.share == pytest.approx(expected, rel=1e-6, abs=1e-9)
    there = predict(DenseOperator(matrix), v, scale, round(found.steps), 0.01)
    assert there.share < 0.0102 or found.steps <= 2


def test_columns_of_zeros_have_no_error():
    operator, rhs, _ = problem(0.1)
    rhs[:, 1] = 0
    for options in ({}, {"depth": 20}):
        solution = LiSSA(**options).prepare(operator).solve(rhs)
        assert bool(solution.converged[1]) and float(solution.error_directions[:, :, 1].norm()) == 0.0
    assert float(LiSSA(depth=1).prepare(operator).solve(0 * rhs).x.norm()) == 0.0
