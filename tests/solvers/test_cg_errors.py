"""What conjugate gradients say of their error where they stopped early, for whatever reason."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.plain_operators import Counting, Gram, gaussian, orthogonal, with_spectrum
from wherefrom.linalg import DenseOperator, LinearOperator
from wherefrom.solvers import CG, Nystrom, Solution

N, P = 200, 80


def problem(
    damping: float, columns: int, dtype: torch.dtype = torch.float64, decay: float = 2.0
) -> tuple[LinearOperator, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Operator, right-hand sides, gradients and the true solutions: a spectrum far above its damping."""
    scale = torch.arange(1, P + 1, dtype=torch.float64) ** (-decay / 2)
    turn = orthogonal(P, 1)
    rows = ((gaussian(N, P) * scale) @ turn).to(dtype)
    rhs = ((gaussian(columns, P, 9) * scale) @ turn).T.to(dtype)
    dense = rows.double().T @ rows.double() / N + damping * torch.eye(P, dtype=torch.float64)
    return Gram(rows).damped(damping), rhs, rows.double().T, torch.linalg.solve(dense, rhs.double())


def ratios(solution: Solution, u: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Estimated over true error of every score."""
    error = (u.T @ (solution.x.double() - truth)).abs()
    return torch.einsum("pu,rpk->ruk", u, solution.error_directions.double()).norm(dim=0) / error


@pytest.mark.parametrize("damping", [1e-2, 1e-6])
@pytest.mark.parametrize("columns", [1, 6])
@pytest.mark.parametrize(
    "options", [{}, {"preconditioner": Nystrom(rank=8)}, {"stop": "scores", "score_rtol": 1e-9}]
)
def test_iterations_that_were_not_allowed_are_in_the_error(damping, columns, options):
    operator, rhs, u, truth = problem(damping, columns)
    for limit in (1, 2, 4):
        prepared = CG(rtol=1e-10, max_iterations=limit, **options).prepare(operator)
        prepared.watch(u[:, ::4])
        solution = prepared.solve(rhs)
        assert not bool(solution.converged.any())
        assert 1 / 3 < float(ratios(solution, u, truth).median()) < 3


def test_only_the_columns_that_need_more_are_looked_at_further():
    """One column is done in a step, and its error says so; the others' is what they lack."""
    operator, rhs, u, truth = problem(1e-3, 3)
    vector = torch.linalg.eigh(operator.to_dense()).eigenvectors[:, -1:]
    solution = CG(rtol=1e-6, max_iterations=3).prepare(operator).solve(torch.cat([vector, rhs], dim=1))
    assert solution.converged.tolist() == [True, False, False, False]
    every = torch.cat([solution.x[:, :1], truth], dim=1)
    estimate = torch.einsum("pu,rpk->ruk", u, solution.error_directions).norm(dim=0)
    assert float(estimate[:, 0].max()) < 1e-6 * float((u.T @ solution.x[:, :1]).norm())
    assert 1 / 3 < float(ratios(solution, u, every)[:, 1:].median()) < 3


@pytest.mark.parametrize("damping", [1e-2, 1e-6])
def test_a_residual_that_stopped_falling_leaves_the_error_of_rounding(damping):
    operator, rhs, u, truth = problem(damping, 2, torch.float32)
    solution = CG(rtol=1e-9).prepare(operator).solve(rhs)
    assert not bool(solution.converged.any()) and "stopped falling" in solution.reason
    assert 1 / 5 < float(ratios(solution, u, truth).median()) < 5


@pytest.mark.parametrize("columns", [1, 6])
@pytest.mark.parametrize("rtol", [0.5, 0.1, 1e-2, 1e-4])
def test_a_loose_tolerance_on_an_ill_conditioned_curvature_is_seen(columns, rtol):
    """Residuals fall faster than errors there: a relative residual of a half leaves all of the error."""
    operator, rhs, u, truth = problem(1e-6, columns)
    solution = CG(rtol=rtol).prepare(operator).solve(rhs)
    assert bool(solution.converged.all())
    assert 1 / 5 < float(ratios(solution, u, truth).median()) < 5


def test_the_answer_is_that_of_the_iterations_allowed():
    """The best in the energy norm over the Krylov space of three steps, and no better."""
    matrix = with_spectrum(torch.logspace(-2, 1, 30, dtype=torch.float64))
    rhs = gaussian(30, 1)
    solution = CG(rtol=1e-12, max_iterations=3).prepare(DenseOperator(matrix, 0.01)).solve(rhs)
    space = torch.cat([rhs, matrix @ rhs, matrix @ matrix @ rhs], dim=1)
    best = space @ torch.linalg.solve(space.T @ matrix @ space, space.T @ rhs)
    torch.testing.assert_close(solution.x, best, rtol=1e-8, atol=1e-10)
    assert int(solution.iterations[0]) == 3


@pytest.mark.parametrize("limit", [2, 30, 100])
def test_looking_further_costs_no_more_than_was_allowed_or_ten_iterations(limit):
    operator = Counting(DenseOperator(with_spectrum(torch.logspace(-9, 1, 400, dtype=torch.float64)), 1e-9))
    solution = CG(rtol=1e-12, max_iterations=limit).prepare(operator).solve(gaussian(400, 2))
    assert not bool(solution.converged.any())
    assert operator.columns <= 2 * (limit + max(10, min(limit, 50)) + 2)
