"""Arnoldi's Krylov space: Ritz values, repeated eigenvalues, indefinite Hessians."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.plain_operators import gaussian, with_spectrum
from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.linalg import DenseOperator
from wherefrom.solvers import Arnoldi

P = 50


def test_the_basis_is_orthonormal_and_its_values_are_those_of_the_operator_on_it():
    matrix = with_spectrum(torch.logspace(-2, 1, P, dtype=torch.float64))
    prepared = Arnoldi(rank=21, block=4).prepare(DenseOperator(matrix, 0.0).damped(0.5))
    basis, values = prepared._basis, prepared._values
    assert basis.shape == (P, 21)
    torch.testing.assert_close(basis.T @ basis, torch.eye(21, dtype=torch.float64))
    scaled = (matrix + 0.5 * torch.eye(P, dtype=torch.float64)) / 0.5
    torch.testing.assert_close(basis.T @ scaled @ basis, torch.diag(values), rtol=0, atol=1e-10)


def test_the_largest_eigenvalues_are_found_long_before_the_space_is_full():
    values = torch.cat([torch.tensor([50.0, 20.0, 10.0]).double(), torch.linspace(0.1, 1, 97).double()])
    prepared = Arnoldi(rank=24, block=2).prepare(DenseOperator(with_spectrum(values), 0.0).damped(1.0))
    torch.testing.assert_close(prepared._values[:3], values[:3] + 1, rtol=1e-6, atol=0)


@pytest.mark.parametrize("block", [1, 8])
def test_a_space_that_is_exhausted_ends_early(block):
    """With few distinct eigenvalues a single start stays in a few dimensions; a block finds the copies."""
    values = torch.cat([torch.full((3,), 4.0), torch.zeros(P - 3)]).double()
    operator = DenseOperator(with_spectrum(values), 0.0).damped(0.5)
    prepared = Arnoldi(rank=40, block=block).prepare(operator)
    assert prepared.notes["rank"] == (2 if block == 1 else 11)
    rhs = gaussian(P, 2)
    solution = prepared.solve(rhs)
    if block == 8:
        torch.testing.assert_close(solution.x, torch.linalg.solve(operator.to_dense(), rhs))


def test_a_hessian_with_negative_eigenvalues_is_inverted_once_damping_makes_it_definite():
    values = torch.cat([torch.tensor([-0.5, -0.2]).double(), torch.linspace(0, 3, P - 2).double()])
    operator = DenseOperator(with_spectrum(values)).damped(0.8)
    prepared = Arnoldi(rank=45).prepare(operator)
    rhs = gaussian(P, 2)
    truth = torch.linalg.solve(operator.to_dense(), rhs)
    assert not prepared.lower_bound_proven and 0 < prepared.lower_bound <= 0.3 * (1 + 1e-9)
    assert float((prepared.solve(rhs).x - truth).norm() / truth.norm()) < 0.1


def test_an_indefinite_hessian_is_refused_with_the_damping_that_repairs_it():
    operator = DenseOperator(with_spectrum([-0.5, 0.5, 1.0, 2.0, 3.0]))
    with pytest.raises(
        NotPositiveDefiniteError, match=r"eigenvalue is -0\.5 or lower.*damping=0\.75"
    ) as caught:
        Arnoldi(rank=3).prepare(operator)
    Arnoldi(rank=3).prepare(operator.damped(caught.value.damping))


def test_without_damping_nothing_is_scaled():
    matrix = with_spectrum(torch.linspace(1, 2, P).double())
    prepared = Arnoldi(rank=10).prepare(DenseOperator(matrix, 1.0))
    assert prepared.notes["units"] == "of the curvature"
    assert prepared.notes["complement_eigenvalue"] == pytest.approx(1.5, rel=0.1)
