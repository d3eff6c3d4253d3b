"""What Arnoldi and Nyström share: the complement, the Galerkin weights, the automatic rank, the errors."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Counting, Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.errors import InputError, NotPositiveDefiniteError
from wherefrom.linalg import DenseOperator, DiagonalOperator, LinearOperator
from wherefrom.solvers import CG, Arnoldi, Nystrom, Solver

BOTH = pytest.mark.parametrize("solver", [Arnoldi, Nystrom])
P = 60


def damped(values: torch.Tensor, damping: float, seed: int = 0) -> tuple[LinearOperator, torch.Tensor]:
    """A semi-definite operator with damping, and its dense matrix."""
    matrix = with_spectrum(values, seed)
    dense = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
    return DenseOperator(matrix, lower_bound=0.0).damped(damping), dense


def falling(decay: float, p: int = P) -> torch.Tensor:
    return torch.arange(1, p + 1, dtype=torch.float64) ** -decay


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_curvature_of_low_rank_is_inverted_exactly(solver, dtype):
    rows = gaussian(12, P, dtype=dtype)
    operator = Gram(rows).damped(0.3)
    dense = rows.T.double() @ rows.double() / 12 + 0.3 * torch.eye(P, dtype=torch.float64)
    rhs = gaussian(P, 4, seed=3, dtype=dtype)
    solution = solver(rank=30).prepare(operator).solve(rhs)
    expected = torch.linalg.solve(dense, rhs.double())
    assert bool(solution.converged.all()) and solution.x.dtype == dtype
    reach = 1e4 * torch.finfo(dtype).eps * float(expected.norm())
    torch.testing.assert_close(solution.x.double(), expected, rtol=0, atol=reach)


@BOTH
def test_full_rank_is_exact(solver):
    operator, dense = damped(falling(1.0), 0.01)
    prepared = solver(rank=1000).prepare(operator)
    rhs = gaussian(P, 3)
    expected = torch.linalg.solve(dense, rhs)
    assert prepared.notes["rank"] == P and prepared.notes["discarded"] == 0.0
    torch.testing.assert_close(prepared.solve(rhs).x, expected, rtol=0, atol=1e-8 * float(expected.norm()))


@given(
    seed=st.integers(0, 10_000),
    decay=st.floats(0.2, 2),
    damping=st.sampled_from([1e-1, 1e-3]),
    rank=st.integers(1, 40),
    solver=st.sampled_from([Arnoldi, Nystrom]),
)
@settings(max_examples=40)
def test_every_answer_beats_any_number_on_the_complement_in_the_energy_norm(
    seed, decay, damping, rank, solver
):
    operator, dense = damped(falling(decay), damping, seed)
    rhs = gaussian(P, 3, seed + 1)
    prepared = solver(rank=rank).prepare(operator, seed=seed)
    truth = torch.linalg.solve(dense, rhs)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return ((x - truth) * (dense @ (x - truth))).sum(0)

    inverse = prepared.as_preconditioner().matmat
    reached = energy(prepared.solve(rhs).x)
    inside, outside = prepared._parts(rhs)
    slack = 1e-10 * (truth * (dense @ truth)).sum(0)
    assert bool((reached <= energy(inverse(rhs)) * (1 + 1e-9) + slack).all())
    for number in (1.0, 1.5, 10.0, 1 / damping):
        assert bool((reached <= energy(inside + outside / number) * (1 + 1e-9) + slack).all())


@BOTH
@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.3, 0.8, 1.25, 3.0]))
@settings(max_examples=15)
def test_no_other_number_is_better_on_average(solver, seed, factor):
    """`tr(X²C) − 2 tr X` is smallest at the mean eigenvalue of the complement, which probes only estimate:
    here it is computed."""
    operator, dense = damped(falling(0.7), 0.05, seed)
    prepared = solver(rank=12).prepare(operator, seed=seed)
    basis, values = prepared._basis, prepared._values
    scaled = dense / 0.05
    outside = torch.eye(P, dtype=torch.float64) - basis @ basis.T
    mean = float((outside * scaled).sum()) / (P - 12)

    def error(number: float) -> float:
        x = basis @ torch.diag(1 / values) @ basis.T + outside / number
        e = x - torch.linalg.inv(scaled)
        return float(torch.trace(e @ scaled @ e))

    assert error(mean) <= error(factor * mean)
    assert prepared.notes["complement_eigenvalue"] == pytest.approx(mean, rel=0.2)


@BOTH
@given(
    seed=st.integers(0, 10_000),
    decay=st.floats(0.3, 2),
    damping=st.sampled_from([1e-1, 1e-3]),
)
@settings(max_examples=20)
def test_the_residual_is_right_and_bounds_the_error_of_every_score(solver, seed, decay, damping):
    operator, dense = damped(falling(decay), damping, seed)
    rhs, u = gaussian(P, 3, seed + 1), gaussian(P, 6, seed + 2)
    prepared = solver(rank=10).prepare(operator, seed=seed)
    solution = prepared.solve(rhs)
    residual = (rhs - dense @ solution.x).norm(dim=0)
    torch.testing.assert_close(solution.residual_norm, residual, rtol=1e-6, atol=1e-9)
    assert prepared.lower_bound_proven and prepared.lower_bound == pytest.approx(damping)
    error = (u.T @ (solution.x - torch.linalg.solve(dense, rhs))).abs()
    limit = u.norm(dim=0)[:, None] * (solution.residual_norm / prepared.lower_bound)
    assert bool((error <= limit * (1 + 1e-6) + 1e-9).all())


@BOTH
def test_the_estimated_error_of_scores_is_of_the_right_size(solver):
    ratios = []
    for decay in (0.5, 1.0, 1.5):
        for condition in (10, 100):
            rows = gaussian(80, P, seed=2) * falling(decay)
            damping = float(torch.linalg.eigvalsh(rows.T @ rows / 80)[-1]) / condition
            dense = rows.T @ rows / 80 + damping * torch.eye(P, dtype=torch.float64)
            rhs = (gaussian(5, P, seed=3) * falling(decay)).T
            solution = solver(rank=15).prepare(Gram(rows).damped(damping)).solve(rhs)
            error = (rows @ (solution.x - torch.linalg.solve(dense, rhs))).abs()
            estimate = torch.einsum("pu,rpk->ruk", rows.T, solution.error_directions).norm(dim=0)
            ratios.append(estimate / error)
    assert 1 / 5 <= float(torch.cat(ratios).median()) <= 5


@BOTH
@pytest.mark.parametrize("damping", [1e-1, 1e-3])
def test_the_error_of_a_column_s_own_score_is_seen(solver, damping):
    """`vᵀx` is stationary at the Galerkin weights; its error is the energy of what is missing, not zero."""
    operator, dense = damped(falling(0.7), damping)
    rhs = gaussian(P, 40, seed=5)
    solution = solver(rank=10).prepare(operator).solve(rhs)
    wrong = (rhs * (torch.linalg.solve(dense, rhs) - solution.x)).sum(0)
    expected = torch.einsum("rpk,pk->rk", solution.error_directions, rhs).norm(dim=0)
    assert float(wrong.min()) > 0
    assert 1 / 4 <= float(wrong.norm() / expected.norm()) <= 4


@BOTH
def test_weight_decay_on_some_parameters_is_part_of_the_scale(solver):
    rows = gaussian(15, P)
    diagonal = torch.cat([torch.full((30,), 0.05), torch.full((30,), 2.0)]).double()
    operator = Gram(rows) + DiagonalOperator(diagonal)
    rhs = gaussian(P, 3, seed=1)
    solution = solver(rank=25).prepare(operator).solve(rhs)
    expected = torch.linalg.solve(rows.T @ rows / 15 + torch.diag(diagonal), rhs)
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-8 * float(expected.norm()))


@BOTH
def test_the_automatic_rank_leaves_as_little_of_the_effective_dimension_as_asked(solver):
    values = falling(3.0, 200)
    operator, _ = damped(values, 1e-3)
    ranks = []
    for discarded in (0.3, 0.1, 0.005):
        prepared = solver(discarded=discarded).prepare(operator)
        basis, damping = prepared._basis, 1e-3
        shrunk = torch.linalg.solve(operator.to_dense(), operator.to_dense() - damping * torch.eye(200))
        inside = float((basis * (shrunk @ basis)).sum())
        assert 1 - inside / float(torch.trace(shrunk)) <= 1.1 * discarded
        ranks.append(prepared.notes["rank"])
    assert ranks[0] <= ranks[1] <= ranks[2] < 200 and ranks[0] < ranks[2]
    json.dumps(prepared.notes)


@BOTH
def test_a_limit_of_the_rank_that_is_reached_is_reported(solver):
    operator, _ = damped(falling(0.3), 1e-3)
    solution = solver(discarded=0.01, max_rank=20).prepare(operator).solve(gaussian(P, 2))
    assert not bool(solution.converged.any())
    assert "max_rank" in solution.reason and "preconditioner" in solution.reason
    assert bool(solver(rank=20).prepare(operator).solve(gaussian(P, 2)).converged.all())


@BOTH
def test_products_are_as_many_as_said(solver):
    matrix, _ = damped(falling(1.0), 0.1)

    class Counted(Counting):
        def __init__(self):
            super().__init__(DenseOperator(matrix.terms[0].to_dense(), 0.0))

    counting = Counted()
    prepared = solver(rank=24).prepare(counting.damped(0.1))
    assert counting.columns == 24 + 8  # eight probes
    prepared.solve(gaussian(P, 3))
    assert counting.columns == 24 + 8 + 3 * 3


@BOTH
def test_as_preconditioner_it_is_symmetric_positive_definite_and_saves_iterations(solver):
    operator, dense = damped(falling(1.5), 1e-4)
    inverse = solver(rank=30).prepare(operator).as_preconditioner()
    matrix = inverse.matmat(torch.eye(P, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0
    rhs = gaussian(P, 1)
    plain = CG(rtol=1e-8).prepare(operator).solve(rhs)
    helped = CG(rtol=1e-8, preconditioner=solver(rank=30)).prepare(operator).solve(rhs)
    assert int(helped.iterations.max()) < int(plain.iterations.max()) / 2
    torch.testing.assert_close(helped.x, torch.linalg.solve(dense, rhs), rtol=1e-5, atol=1e-5)


@BOTH
def test_zero_and_duplicate_columns_and_columns_inside_the_space(solver):
    operator, dense = damped(falling(1.0), 0.1)
    prepared = solver(rank=10).prepare(operator)
    column = gaussian(P, 1)
    inside = prepared._basis[:, :1]
    rhs = torch.cat([column, torch.zeros_like(column), column, inside], dim=1)
    solution = prepared.solve(rhs)
    assert float(solution.x[:, 1].norm()) == 0.0
    torch.testing.assert_close(solution.x[:, 0], solution.x[:, 2])
    assert bool(torch.isfinite(solution.error_directions).all())
    # Inside U there is no second part to weigh: the answer is the best multiple of the first.
    part, v = prepared._parts(inside)[0], inside
    best = part * (part * v).sum() / (part * (dense @ part)).sum()
    torch.testing.assert_close(solution.x[:, 3:], best)


@BOTH
def test_the_same_seed_gives_the_same_bits(solver):
    operator, _ = damped(falling(0.5), 0.1)
    rhs = gaussian(P, 2)
    first, again, other = (solver(rank=10).prepare(operator, seed=s).solve(rhs).x for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank": 2.5},
        {"rank": None},
        {"rank": "all"},
        {"rank": True},
        {"discarded": 0.0},
        {"discarded": 1.0},
        {"max_rank": 0},
        {"max_rank": "all"},
    ],
)
def test_settings_out_of_range_are_refused(solver, options):
    with as_a_user(), pytest.raises(InputError, match=next(iter(options))):
        solver(**options)


@BOTH
def test_settings_are_json(solver):
    given_rank: Solver = solver(rank=7)
    assert given_rank.settings()["rank"] == 7 and "max_rank" not in given_rank.settings()
    assert json.loads(json.dumps(solver().settings()))["discarded"] == 0.05


def test_a_block_of_starts_is_an_option_of_arnoldi():
    with pytest.raises(InputError, match="block"):
        Arnoldi(block=0)
    assert Arnoldi(block=3).settings()["block"] == 3


@BOTH
def test_a_promise_of_definiteness_that_is_broken_is_noticed(solver):
    """An operator that claims to be semi-definite and is not."""
    matrix = with_spectrum(torch.cat([torch.tensor([-3.0]).double(), falling(1.0, 19)]))
    with pytest.raises(NotPositiveDefiniteError, match=r"eigenvalue .*damping=.*curvature='ggn'") as caught:
        solver(rank=20).prepare(DenseOperator(matrix, lower_bound=0.0).damped(0.1))
    assert caught.value.eigenvalue < 0 < caught.value.damping
