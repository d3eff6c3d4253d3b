"""What may precondition conjugate gradients, what it gains, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Counting, Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.linalg import DenseOperator, DiagonalOperator
from wherefrom.solvers import CG, Exact, LiSSA


def perturbed_inverse(matrix: torch.Tensor, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """`C^{-1/2} N⁻¹ C^{-1/2}`: an approximate inverse whose product with `C` has the spectrum of `N⁻¹`."""
    values, vectors = torch.linalg.eigh(matrix)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    noise = with_spectrum(torch.logspace(-spread / 2, spread / 2, len(matrix), dtype=torch.float64), seed)
    return root @ noise @ root


def energy_error(x: torch.Tensor, matrix: torch.Tensor, rhs: torch.Tensor) -> torch.Tensor:
    error = x - torch.linalg.solve(matrix, rhs)
    return (error * (matrix @ error)).sum(0)


@pytest.mark.parametrize("method", ["cholesky", "eigh"])
def test_an_exact_solver_as_preconditioner_needs_one_iteration(method):
    matrix = with_spectrum(torch.logspace(-4, 1, 30, dtype=torch.float64))
    solver = CG(rtol=1e-8, preconditioner=Exact(method))
    solution = solver.prepare(DenseOperator(matrix, 1e-4)).solve(gaussian(30, 4))
    assert bool(solution.converged.all()) and int(solution.iterations.max()) == 1


@pytest.mark.parametrize("space", ["primal", "dual"])
def test_the_preconditioner_of_an_exact_solver_is_the_inverse(space):
    rows = gaussian(12, 8)
    operator = Gram(rows).damped(0.2)
    inverse = Exact(space=space).prepare(operator).as_preconditioner()
    dense = rows.T @ rows / 12 + 0.2 * torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(inverse.to_dense(), torch.linalg.inv(dense))
    assert inverse.lower_bound == 0.0 and inverse.size == 8


@given(seed=st.integers(0, 10_000), columns=st.integers(1, 5), spread=st.floats(0.1, 3))
@settings(max_examples=30)
def test_the_first_iterate_is_at_least_as_good_as_the_preconditioners_own_answer(seed, columns, spread):
    matrix = with_spectrum(torch.logspace(-3, 1, 25, dtype=torch.float64), seed)
    inverse = perturbed_inverse(matrix, seed + 1, spread)
    rhs = gaussian(25, columns, seed + 2)
    solver = CG(rtol=1e-12, max_iterations=1, preconditioner=DenseOperator(inverse))
    first = solver.prepare(DenseOperator(matrix, 1e-3)).solve(rhs).x
    own, reached = energy_error(inverse @ rhs, matrix, rhs), energy_error(first, matrix, rhs)
    assert bool((reached <= own * (1 + 1e-9)).all())


@pytest.mark.parametrize("columns", [1, 6])
def test_it_applies_the_preconditioner_once_an_iteration(columns):
    matrix = with_spectrum(torch.logspace(-3, 1, 200, dtype=torch.float64))
    inverse = Counting(DenseOperator(perturbed_inverse(matrix)))
    solution = (
        CG(rtol=1e-6, preconditioner=inverse)
        .prepare(DenseOperator(matrix, 1e-3))
        .solve(gaussian(200, columns))
    )
    assert bool(solution.converged.all())
    assert inverse.columns <= columns * (int(solution.iterations.max()) + 1)


def test_it_needs_far_fewer_products_and_reports_the_spectrum_it_saw():
    matrix = with_spectrum(torch.logspace(-4, 1, 200, dtype=torch.float64))
    operator = DenseOperator(matrix, 1e-4)
    rhs = gaussian(200, 3)
    plain = CG(rtol=1e-6).prepare(operator).solve(rhs)
    prepared = CG(rtol=1e-6, preconditioner=DenseOperator(perturbed_inverse(matrix))).prepare(operator)
    helped = prepared.solve(rhs)
    assert int(helped.iterations.max()) < int(plain.iterations.max()) / 3
    # The spectrum of M⁻¹C is that of the perturbation: 10^±½.
    assert 10**-0.5 * 0.999 <= prepared.notes["preconditioned_smallest_ritz"] <= 0.4
    assert 2.5 <= prepared.notes["preconditioned_largest_ritz"] <= 10**0.5 * 1.001


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-9, 1e-4])
def test_nearly_dependent_columns(gap):
    matrix = with_spectrum(torch.logspace(-2, 1, 40, dtype=torch.float64))
    first = gaussian(40, 3)
    rhs = torch.cat([first, first[:, :1] + gap * gaussian(40, 1, seed=9), torch.zeros_like(first[:, :1])], 1)
    inverse = DenseOperator(perturbed_inverse(matrix))
    solution = CG(rtol=1e-9, preconditioner=inverse).prepare(DenseOperator(matrix, 0.01)).solve(rhs)
    assert bool(solution.converged.all()), solution.reason
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, rhs), rtol=0, atol=1e-6)


def test_the_estimated_error_is_of_the_right_size():
    matrix = with_spectrum(torch.logspace(-3, 1, 200, dtype=torch.float64))
    inverse = DenseOperator(perturbed_inverse(matrix))
    rhs, u = gaussian(200, 4), gaussian(200, 100, seed=4)
    truth = torch.linalg.solve(matrix, rhs)
    for rtol in (1e-2, 1e-4, 1e-6):
        solution = CG(rtol=rtol, preconditioner=inverse).prepare(DenseOperator(matrix, 1e-3)).solve(rhs)
        error = (u.T @ (solution.x - truth)).abs()
        estimate = torch.einsum("pu,rpk->ruk", u, solution.error_directions).norm(dim=0)
        assert 1 / 5 <= float((estimate / error).median()) <= 5


def test_settings_are_json_and_hold_those_of_the_preconditioner():
    values = CG(preconditioner=Exact("eigh")).settings()
    assert values["preconditioner"] == {"solver": "exact", "method": "eigh", "space": "auto"}
    operator = CG(preconditioner=DiagonalOperator(torch.ones(3))).settings()
    assert operator["preconditioner"] == "DiagonalOperator"
    assert CG().settings()["preconditioner"] is None
    json.dumps([values, operator])


def test_solvers_that_apply_no_fixed_map_are_refused_by_name():
    operator = Gram(gaussian(20, 5)).damped(0.5)
    for solver, name in ((LiSSA(depth=3), "LiSSA"), (CG(), "CG")):
        with pytest.raises(UnsupportedError, match=rf"{name} cannot precondition.*Nystrom"):
            CG(preconditioner=solver).prepare(operator)


def test_a_preconditioner_of_another_kind_size_or_dtype_is_refused():
    operator = Gram(gaussian(20, 5)).damped(0.5)
    with as_a_user(), pytest.raises(InputError, match=r"preconditioner: found str; expected a Solver"):
        CG(preconditioner="ekfac")
    for wrong in (
        DiagonalOperator(torch.ones(4, dtype=torch.float64)),
        DiagonalOperator(torch.ones(5, dtype=torch.float32)),
    ):
        with pytest.raises(InputError, match=r"preconditioner has size, dtype, device"):
            CG(preconditioner=wrong).prepare(operator)
