"""`damping="auto"` for an exact curvature: none where it is positive definite, proved or measured."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.plain_operators import Counting, Gram, gaussian, with_spectrum
from wherefrom.linalg import DenseOperator, DiagonalOperator
from wherefrom.solvers import CG, DataInf, Exact, LiSSA, Nystrom, choose_damping


@pytest.mark.parametrize("smallest", [1e-1, 1e-5, 1e-9])
def test_a_proved_floor_needs_no_damping_up_to_what_float64_can_factorise(smallest):
    operator = DenseOperator(with_spectrum([smallest, 1.0, 5.0]), smallest)
    damping = choose_damping(operator, "auto", exact_curvature=True)
    assert damping.value == 0.0 and "none needed" in damping.reason and not damping.departs


def test_beyond_that_the_condition_number_is_brought_down_and_the_answer_departs():
    operator = DenseOperator(with_spectrum([1e-12, 1.0, 5.0]), 1e-12)
    damping = choose_damping(operator, "auto", exact_curvature=True)
    assert damping.value == pytest.approx(5e-10, rel=1e-3) and damping.departs


@pytest.mark.parametrize("solver", [Exact(), Exact("eigh"), CG(), LiSSA()])
def test_a_measured_floor_needs_no_damping(solver):
    operator = DenseOperator(with_spectrum([1e-4, 0.3, 1.0, 5.0]))
    damping = choose_damping(operator, "auto", exact_curvature=True, solver=solver)
    assert damping.value == 0.0 and "as measured" in damping.reason


def test_the_factorisation_that_measured_the_floor_is_kept():
    operator = Counting(DenseOperator(with_spectrum([1e-4, 0.3, 1.0, 5.0])))
    damping = choose_damping(operator, "auto", exact_curvature=True, solver=Exact())
    assert damping.prepared is not None
    rhs = gaussian(4, 2)
    exact = torch.linalg.solve(operator.inner.to_dense(), rhs)
    torch.testing.assert_close(damping.prepared.solve(rhs).x, exact, rtol=1e-9, atol=0)


@pytest.mark.parametrize("solver", [Exact(), CG()])
@pytest.mark.parametrize("values", [[0.0, 1.0, 5.0], [-0.01, 1.0, 5.0], [1e-14, 1.0, 5.0]])
def test_what_is_not_positive_definite_is_damped_as_before(solver, values):
    damping = choose_damping(
        DenseOperator(with_spectrum(values)), "auto", exact_curvature=True, solver=solver
    )
    assert damping.value >= 4.9e-3 and not damping.departs


def test_a_large_floor_is_found_by_products_when_a_factorisation_is_not_asked_for():
    values = torch.cat([torch.tensor([2e-3], dtype=torch.float64), torch.linspace(0.05, 4.0, 199).double()])
    operator = Counting(DenseOperator(with_spectrum(values)))
    assert choose_damping(operator, "auto", exact_curvature=True, solver=CG()).value == 0.0
    assert operator.columns <= 20 * 2 + 200


def test_a_network_whose_smallest_eigenvalue_no_factorisation_shows_keeps_its_damping():
    operator = DenseOperator(with_spectrum([1e-4, 0.3, 1.0, 5.0]))
    for affine, value in ((True, 0.0), (False, 5e-3)):
        damping = choose_damping(operator, "auto", exact_curvature=True, solver=CG(), affine=affine)
        assert damping.value == pytest.approx(value, rel=1e-2)


def test_the_dual_space_gets_a_token_on_parameters_without_weight_decay():
    decay = torch.full((30,), 0.1, dtype=torch.float64)
    decay[:2] = 0
    operator = Gram(gaussian(40, 30)) + DiagonalOperator(decay)
    damping = choose_damping(operator, "auto", exact_curvature=True, solver=Exact(space="dual"))
    largest = float(torch.linalg.eigvalsh(operator.to_dense())[-1])
    assert damping.value == pytest.approx(largest / 1e7, rel=1e-3) and damping.departs


@pytest.mark.parametrize("solver", [Nystrom(), DataInf()])
def test_solvers_whose_answer_rests_on_damping_keep_it(solver):
    decay = torch.full((30,), 0.1, dtype=torch.float64)
    decay[:2] = 0
    operator = Gram(gaussian(40, 30)) + DiagonalOperator(decay)
    largest = float(torch.linalg.eigvalsh(operator.to_dense())[-1])
    damping = choose_damping(operator, "auto", exact_curvature=True, solver=solver)
    assert damping.value == pytest.approx(largest / 1e3, rel=1e-2)
