"""Block conjugate gradients against dense solves: hard blocks, preconditioners, honest failure."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Counting, gaussian, with_spectrum
from wherefrom.errors import InputError, NotPositiveDefiniteError
from wherefrom.linalg import DenseOperator, DiagonalOperator
from wherefrom.solvers import CG

SPECTRUM = torch.logspace(-2, 1, 40, dtype=torch.float64)


def relative_error(x: torch.Tensor, matrix: torch.Tensor, rhs: torch.Tensor) -> float:
    expected = torch.linalg.solve(matrix.double(), rhs.double())
    return float((x.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("bound", [0.01, float("-inf")])
@pytest.mark.parametrize("columns", [1, 7])
def test_solution_and_residual(bound, columns):
    matrix = with_spectrum(SPECTRUM)
    rhs = gaussian(40, columns)
    prepared = CG(rtol=1e-10).prepare(DenseOperator(matrix, lower_bound=bound))
    solution = prepared.solve(rhs)
    assert prepared.lower_bound_proven == (bound > 0)
    assert bool(solution.converged.all()) and solution.reason == ""
    assert relative_error(solution.x, matrix, rhs) < 1e-7
    true_residual = (rhs - matrix @ solution.x).norm(dim=0)
    torch.testing.assert_close(solution.residual_norm, true_residual, rtol=1e-6, atol=1e-15)
    assert bool((true_residual <= 1e-10 * rhs.norm(dim=0)).all())


@pytest.mark.slow
def test_a_block_agrees_with_single_columns_and_needs_fewer_iterations():
    matrix = with_spectrum(torch.logspace(-3, 1, 120, dtype=torch.float64))
    rhs = gaussian(120, 12)
    together = CG(rtol=1e-9, block=12).prepare(DenseOperator(matrix, 1e-3)).solve(rhs)
    alone = CG(rtol=1e-9, block=1).prepare(DenseOperator(matrix, 1e-3)).solve(rhs)
    torch.testing.assert_close(together.x, alone.x, rtol=0, atol=1e-5 * float(alone.x.norm()))
    assert int(together.iterations.max()) < int(alone.iterations.max()) / 2


def test_blocks_are_split_and_joined():
    matrix, rhs = with_spectrum(SPECTRUM), gaussian(40, 10)
    solution = CG(rtol=1e-9, block=4).prepare(DenseOperator(matrix, 0.01)).solve(rhs)
    assert solution.x.shape == (40, 10) and solution.error_directions.shape[1:] == (40, 10)
    assert len(solution.converged) == len(solution.iterations) == len(solution.residual_norm) == 10
    assert relative_error(solution.x, matrix, rhs) < 1e-6


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-9, 1e-4])
def test_duplicate_and_nearly_dependent_columns(gap):
    matrix = with_spectrum(SPECTRUM)
    first = gaussian(40, 3)
    rhs = torch.cat(
        [first, first[:, :1] + gap * gaussian(40, 1, seed=9), first[:, 1:2] - first[:, 2:3]], dim=1
    )
    solution = CG(rtol=1e-9).prepare(DenseOperator(matrix, 0.01)).solve(rhs)
    assert bool(solution.converged.all()), solution.reason
    assert relative_error(solution.x, matrix, rhs) < 1e-6


def test_zero_right_hand_sides_give_zero_with_no_error():
    matrix = with_spectrum(SPECTRUM)
    rhs = gaussian(40, 3)
    rhs[:, 1] = 0
    for block in (rhs, torch.zeros(40, 2, dtype=torch.float64)):
        solution = CG(rtol=1e-9).prepare(DenseOperator(matrix, 0.01)).solve(block)
        assert bool(solution.converged.all())
        assert relative_error(solution.x + 1, matrix, block + matrix @ torch.ones_like(block)) < 1e-6
        assert bool(torch.isfinite(solution.error_directions).all())
        assert float(solution.relative_residual[1]) == 0.0
        assert float(solution.x[:, 1].norm()) == 0.0


def test_more_columns_than_unknowns():
    matrix, rhs = with_spectrum([0.5, 1.0, 4.0]), gaussian(3, 8)
    solution = CG(rtol=1e-10).prepare(DenseOperator(matrix, 0.5)).solve(rhs)
    assert relative_error(solution.x, matrix, rhs) < 1e-8


def test_columns_that_have_converged_are_frozen():
    """An eigenvector converges in one step; what is iterated for its neighbours must not move it."""
    matrix = with_spectrum(SPECTRUM)
    eigenvector = torch.linalg.eigh(matrix).eigenvectors[:, -1:]
    rhs = torch.cat([eigenvector, gaussian(40, 1)], dim=1)
    solution = CG(rtol=1e-8).prepare(DenseOperator(matrix, 0.01)).solve(rhs)
    assert int(solution.iterations[0]) < int(solution.iterations[1])
    assert relative_error(solution.x[:, :1], matrix, eigenvector) < 1e-7


def test_a_good_preconditioner_saves_iterations_and_a_bad_one_still_gives_the_solution():
    diagonal = torch.logspace(-3, 3, 60, dtype=torch.float64)
    matrix = torch.diag(diagonal) + 1e-4 * with_spectrum(torch.ones(60))
    matrix = (
        matrix
        + 0.1
        * torch.diag(diagonal).sqrt()
        @ with_spectrum(torch.rand(60).double(), 3)
        @ torch.diag(diagonal).sqrt()
    )
    rhs = gaussian(60, 2)
    operator = DenseOperator(matrix)
    plain = CG(rtol=1e-8, max_iterations=5000).prepare(operator).solve(rhs)
    good = CG(rtol=1e-8, preconditioner=DiagonalOperator(1 / diagonal)).prepare(operator).solve(rhs)
    bad = CG(
        rtol=1e-8, max_iterations=5000, preconditioner=DiagonalOperator(torch.linspace(1, 30, 60).double())
    ).prepare(operator)
    assert int(good.iterations.max()) < int(plain.iterations.max()) / 2
    for solution in (good, bad.solve(rhs)):
        assert bool(solution.converged.all()), solution.reason
        assert float((rhs - matrix @ solution.x).norm() / rhs.norm()) < 2e-8


def test_a_preconditioner_that_is_not_positive_definite_is_refused():
    operator = DenseOperator(with_spectrum(SPECTRUM), 0.01)
    wrong = DiagonalOperator(-torch.ones(40, dtype=torch.float64))
    with pytest.raises(InputError, match=r"preconditioner.*positive definite"):
        CG(preconditioner=wrong).prepare(operator).solve(gaussian(40, 2))


@pytest.mark.parametrize("declared", [False, True])
def test_negative_curvature_is_detected_and_the_suggested_damping_repairs_it(declared):
    values = torch.cat(
        [torch.tensor([-0.4, -0.05], dtype=torch.float64), torch.linspace(0.1, 5, 38).double()]
    )
    matrix = with_spectrum(values)
    rhs = gaussian(40, 3)
    # A bound that is wrong stands for an operator whose promise is broken: the iteration itself must notice.
    operator = DenseOperator(matrix, lower_bound=0.1 if declared else float("-inf"))
    with pytest.raises(
        NotPositiveDefiniteError, match=r"negative curvature.*damping=.*curvature='ggn'"
    ) as caught:
        CG(rtol=1e-10).prepare(operator).solve(rhs)
    assert caught.value.eigenvalue == pytest.approx(-0.4, rel=1e-3)
    repaired = DenseOperator(matrix).damped(caught.value.damping)
    solution = CG(rtol=1e-8).prepare(repaired).solve(rhs)
    assert bool(solution.converged.all())
    assert relative_error(solution.x, repaired.to_dense(), rhs) < 1e-5


@pytest.mark.parametrize("columns", [1, 5])
def test_ritz_values_lie_within_the_spectrum_and_find_its_ends(columns):
    prepared = CG(rtol=1e-12).prepare(DenseOperator(with_spectrum(SPECTRUM), 0.01))
    prepared.solve(gaussian(40, columns))
    smallest, largest = prepared.notes["smallest_ritz"], prepared.notes["largest_ritz"]
    assert 0.01 * (1 - 1e-6) <= smallest <= 0.01 * 1.05
    assert 10 * 0.99 <= largest <= 10 * (1 + 1e-6)


def test_too_few_iterations_are_reported():
    solution = (
        CG(rtol=1e-10, max_iterations=3)
        .prepare(DenseOperator(with_spectrum(SPECTRUM), 0.01))
        .solve(gaussian(40, 2))
    )
    assert not bool(solution.converged.any())
    assert "max_iterations=3" in solution.reason and "damping" in solution.reason
    assert bool((solution.iterations <= 3).all())


def test_stagnation_in_float32_is_reported_not_hidden():
    matrix = with_spectrum(torch.logspace(-6, 1, 60, dtype=torch.float64)).float()
    solution = (
        CG(rtol=1e-9)
        .prepare(DenseOperator(matrix + 1e-6 * torch.eye(60), 1e-7))
        .solve(gaussian(60, 2, dtype=torch.float32))
    )
    assert not bool(solution.converged.any())
    assert "float64" in solution.reason or "max_iterations" in solution.reason
    assert float(solution.relative_residual.min()) > 1e-9


@given(
    exponents=st.lists(st.floats(-3, 2), min_size=2, max_size=25),
    seed=st.integers(0, 10_000),
    rtol=st.sampled_from([1e-1, 1e-3, 1e-6]),
    columns=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_the_residual_bounds_the_error_of_every_score(exponents, seed, rtol, columns):
    values = 10 ** torch.tensor(exponents, dtype=torch.float64)
    matrix = with_spectrum(values, seed)
    p = len(exponents)
    rhs, u = gaussian(p, columns, seed + 1), gaussian(p, 5, seed + 2)
    smallest = float(values.min()) * (1 - 1e-9)
    prepared = CG(rtol=rtol).prepare(DenseOperator(matrix, lower_bound=smallest))
    solution = prepared.solve(rhs)
    error = (u.T @ (solution.x - torch.linalg.solve(matrix, rhs))).abs()
    rounding = 1e-13 * p * float(values.max() / values.min()) * float(torch.linalg.solve(matrix, rhs).norm())
    limit = u.norm(dim=0)[:, None] * (solution.residual_norm / prepared.lower_bound + rounding)
    assert bool((error <= limit).all())


@pytest.mark.parametrize("columns", [1, 6])
def test_estimated_error_is_within_a_factor_of_five_in_the_median(columns):
    """Pooled over tolerances: where the Krylov space is nearly exhausted, single runs may be further off."""
    matrix = with_spectrum(torch.logspace(-2, 1, 300, dtype=torch.float64))
    rhs, u = gaussian(300, columns), gaussian(300, 100, seed=4)
    truth = torch.linalg.solve(matrix, rhs)
    ratios = []
    for rtol in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        solution = CG(rtol=rtol).prepare(DenseOperator(matrix, 0.01)).solve(rhs)
        error = (u.T @ (solution.x - truth)).abs()
        ratios.append(torch.einsum("pu,rpk->ruk", u, solution.error_directions).norm(dim=0) / error)
    assert 1 / 5 <= float(torch.cat(ratios).median()) <= 5


def test_products_are_not_wasted():
    """One product a column and iteration, one more for the true residual."""
    operator = Counting(DenseOperator(with_spectrum(SPECTRUM), 0.01))
    solution = CG(rtol=1e-6).prepare(operator).solve(gaussian(40, 5))
    assert operator.columns <= 5 * (int(solution.iterations.max()) + 2)


@pytest.mark.parametrize("options", [{"rtol": 0.0}, {"rtol": 2.0}, {"max_iterations": 0}, {"block": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        CG(**options)


@pytest.mark.parametrize(("p", "k", "rtol"), [(100, 20, 1e-2), (100, 20, 1e-8), (60, 30, 1e-4)])
def test_the_estimate_holds_where_the_krylov_space_runs_out_in_one_step(p, k, rtol):
    generator = torch.Generator().manual_seed(p + k)
    half, rhs, u = (torch.randn(p, m, generator=generator, dtype=torch.float64) for m in (p, k, 50))
    matrix = half @ half.T / p + 0.05 * torch.eye(p, dtype=torch.float64)
    solution = CG(rtol=rtol).prepare(DenseOperator(matrix, 0.05)).solve(rhs)
    error = (u.T @ (solution.x - torch.linalg.solve(matrix, rhs))).abs()
    estimate = torch.einsum("pu,rpk->ruk", u, solution.error_directions).norm(dim=0)
    assert 0.2 < float((estimate / error).median()) < 5
