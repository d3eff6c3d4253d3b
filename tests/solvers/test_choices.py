"""`damping="auto"` and `solver="auto"`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.linalg import DenseOperator, DiagonalOperator
from wherefrom.solvers import CG, EKFAC, DataInf, Exact, LiSSA, Nystrom, choose_damping, choose_solver

GIB = 2**30


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_damping_may_be_a_number_of_any_kind(value):
    with as_a_user():
        damping = choose_damping(DiagonalOperator(torch.ones(3)), value, exact_curvature=True)
    assert type(damping.value) is float and damping.value == 0.5


@pytest.mark.parametrize("bad", [True, torch.tensor(True), torch.tensor(-1.0), torch.ones(2), None])
def test_damping_that_is_no_number_is_refused(bad):
    with as_a_user(), pytest.raises(InputError, match=r"damping=.*finite number ≥ 0"):
        choose_damping(DiagonalOperator(torch.ones(3)), bad, exact_curvature=True)


def test_a_strictly_convex_exact_curvature_needs_no_damping():
    damping = choose_damping(DenseOperator(with_spectrum([0.1, 1.0, 5.0]), 0.1), "auto", exact_curvature=True)
    assert damping.value == 0.0 and "none needed" in damping.reason


@given(
    exponents=st.lists(st.floats(-6, 2), min_size=2, max_size=15),
    negative=st.lists(st.floats(-2, 1), min_size=0, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_auto_makes_any_curvature_positive_definite_and_well_conditioned(exponents, negative, seed):
    values = torch.cat([10 ** torch.tensor(exponents).double(), -(10 ** torch.tensor(negative).double())])
    matrix = with_spectrum(values, seed)
    damping = choose_damping(DenseOperator(matrix), "auto", exact_curvature=False, seed=seed)
    damped = torch.linalg.eigvalsh(matrix) + damping.value
    assert float(damped[0]) > 0
    assert float(damped[-1] / damped[0]) < 1.1e3


def test_a_gauss_newton_matrix_is_damped_by_its_condition_number():
    rows = gaussian(5, 12)
    damping = choose_damping(Gram(rows), "auto", exact_curvature=False)
    largest = float(torch.linalg.eigvalsh(rows.T @ rows / 5)[-1])
    assert damping.value == pytest.approx(largest / 1e3, rel=1e-3)
    assert "condition number" in damping.reason


def test_no_curvature_at_all_gets_a_positive_damping():
    assert choose_damping(DenseOperator(torch.zeros(3, 3).double()), "auto", exact_curvature=False).value > 0


def test_a_number_is_taken_as_given():
    operator = DenseOperator(with_spectrum([1.0, 2.0]))
    damping = choose_damping(operator, 0.25, exact_curvature=False)
    assert damping.value == 0.25 and damping.spectrum is None
    with as_a_user():
        assert choose_damping(operator, 0, exact_curvature=False).value == 0.0


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), True])
def test_other_dampings_are_refused(wrong):
    with (
        as_a_user(),
        pytest.raises(
            InputError, match=r"damping=.*'auto', a finite number ≥ 0 in the units of the curvature, or Rel"
        ),
    ):
        choose_damping(DenseOperator(with_spectrum([1.0, 2.0])), wrong, exact_curvature=False)


def test_small_problems_are_factorised_and_given_solvers_are_kept():
    operator = DenseOperator(with_spectrum([1.0, 2.0]))
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, Exact) and "small enough to factorise" in reason
    given_solver = CG(rtol=0.1)
    assert choose_solver(given_solver, operator, memory=GIB, damped=True) == (given_solver, "as given")
    for name, kind in {
        "exact": Exact,
        "cg": CG,
        "lissa": LiSSA,
        "ekfac": EKFAC,
        "nystrom": Nystrom,
        "datainf": DataInf,
    }.items():
        assert isinstance(choose_solver(name, operator, memory=GIB, damped=True)[0], kind)


def test_many_parameters_and_few_examples_go_to_the_dual_space_and_the_rest_to_cg():
    wide = Gram(gaussian(4, 9000, dtype=torch.float32)) + DiagonalOperator(torch.full((9000,), 0.1))
    solver, reason = choose_solver("auto", wide, memory=GIB, damped=True)
    assert isinstance(solver, Exact) and solver.space == "dual" and "dual" in reason
    small = DenseOperator(with_spectrum([1.0, 2.0, 3.0]))
    solver, reason = choose_solver("auto", small, memory=10, damped=True)
    assert isinstance(solver, CG) and "too large to factorise" in reason


def test_an_unknown_solver_is_refused():
    with pytest.raises(InputError, match=r"solver='newton'.*'auto', 'exact', 'cg', 'lissa'"):
        choose_solver("newton", DenseOperator(with_spectrum([1.0])), memory=GIB, damped=True)
