"""Dense factorisation against plain solves: both methods, both spaces, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_operators import Gram, gaussian, with_spectrum

from support import as_a_user
from whence.errors import InputError, NotPositiveDefiniteError, OutOfMemoryError, UnsupportedError
from whence.linalg import DenseOperator, DiagonalOperator
from whence.solvers import Exact

SPECTRUM = [0.01, 0.1, 0.5, 1.0, 2.0, 7.0, 30.0]


@pytest.mark.parametrize("method", ["cholesky", "eigh"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_primal_solves_to_the_operators_precision(method, dtype):
    matrix = with_spectrum(SPECTRUM).to(dtype)
    rhs = gaussian(7, 4, dtype=dtype)
    prepared = Exact(method, "primal").prepare(DenseOperator(matrix))
    solution = prepared.solve(rhs)
    expected = torch.linalg.solve(matrix.double(), rhs.double())
    assert solution.x.dtype == dtype
    assert bool(solution.converged.all()) and solution.reason == ""
    torch.testing.assert_close(
        solution.x.double(), expected, rtol=0, atol=100 * torch.finfo(dtype).eps * float(expected.norm())
    )
    backward = solution.residual_norm / (SPECTRUM[-1] * solution.x.norm(dim=0))
    assert float(backward.max()) < 100 * torch.finfo(dtype).eps


@given(
    exponents=st.lists(st.floats(-4, 2), min_size=1, max_size=12),
    seed=st.integers(0, 10_000),
    method=st.sampled_from(["cholesky", "eigh"]),
)
@settings(max_examples=40, deadline=None)
def test_the_residual_bounds_the_error_of_every_score(exponents, seed, method):
    """`|uᵀ(x − x*)| ≤ ‖u‖ ‖r‖ / λ_min` with the prepared lower bound in the place of `λ_min`."""
    values = 10 ** torch.tensor(exponents, dtype=torch.float64)
    matrix = with_spectrum(values, seed)
    p = len(exponents)
    rhs, u = gaussian(p, 3, seed + 1), gaussian(p, 5, seed + 2)
    prepared = Exact(method, "primal").prepare(DenseOperator(matrix))
    assert prepared.lower_bound_proven and 0 < prepared.lower_bound <= float(values.min()) * (1 + 1e-9)
    solution = prepared.solve(rhs)
    error = (u.T @ (solution.x - torch.linalg.solve(matrix, rhs))).abs()
    residual = (rhs - matrix @ solution.x).norm(dim=0)
    rounding = 1e-14 * p * float(values.max() / values.min()) * float(torch.linalg.solve(matrix, rhs).norm())
    assert bool((error <= u.norm(dim=0)[:, None] * (residual / prepared.lower_bound + rounding)).all())


@pytest.mark.parametrize("method", ["cholesky", "eigh"])
def test_a_proven_bound_of_the_operator_is_kept(method):
    prepared = Exact(method, "primal").prepare(DenseOperator(with_spectrum(SPECTRUM), lower_bound=0.009))
    assert prepared.lower_bound >= 0.009 and prepared.lower_bound <= 0.01


@pytest.mark.parametrize("method", ["cholesky", "eigh"])
def test_an_indefinite_matrix_is_refused_with_its_most_negative_eigenvalue_and_a_damping_that_repairs_it(
    method,
):
    operator = DenseOperator(with_spectrum([-0.3, -0.1, 0.5, 2.0]))
    with pytest.raises(
        NotPositiveDefiniteError, match=r"most negative eigenvalue is -0\.3.*damping=0\.33"
    ) as caught:
        Exact(method, "primal").prepare(operator)
    assert caught.value.eigenvalue == pytest.approx(-0.3)
    Exact(method, "primal").prepare(operator.damped(caught.value.damping))


@pytest.mark.parametrize("p", [30, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dual_equals_primal(p, dtype):
    rows = gaussian(12, p, dtype=dtype)
    diagonal = torch.linspace(0.05, 0.2, p, dtype=dtype)
    operator = Gram(rows) + DiagonalOperator(diagonal)
    rhs = gaussian(p, 3, seed=5, dtype=dtype)
    dual = Exact(space="dual").prepare(operator)
    solution = dual.solve(rhs)
    dense = rows.T.double() @ rows.double() / 12 + torch.diag(diagonal.double())
    expected = torch.linalg.solve(dense, rhs.double())
    assert dual.notes["space"] == "dual" and dual.notes["size"] == 12
    assert dual.lower_bound_proven and dual.lower_bound == pytest.approx(0.05)
    torch.testing.assert_close(
        solution.x.double(), expected, rtol=0, atol=1e3 * torch.finfo(dtype).eps * float(expected.norm())
    )


@pytest.mark.parametrize(("p", "space"), [(30, "dual"), (8, "primal")])
def test_auto_takes_the_smaller_space(p, space):
    operator = Gram(gaussian(12, p)).damped(0.1)
    assert Exact().prepare(operator).notes["space"] == space


def test_dual_is_refused_without_a_factor_or_without_damping():
    for operator in (DenseOperator(with_spectrum(SPECTRUM)).damped(1.0), Gram(gaussian(5, 9)).damped(0.0)):
        with pytest.raises(UnsupportedError, match=r"space='dual'.*curvature='ggn' with damping > 0"):
            Exact(space="dual").prepare(operator)


def test_zero_and_duplicate_right_hand_sides():
    matrix = with_spectrum(SPECTRUM)
    column = gaussian(7, 1)
    solution = (
        Exact()
        .prepare(DenseOperator(matrix))
        .solve(torch.cat([column, torch.zeros(7, 1).double(), column], 1))
    )
    assert torch.equal(solution.x[:, 0], solution.x[:, 2])
    assert float(solution.x[:, 1].norm()) == 0.0
    assert float(solution.relative_residual[1]) == 0.0
    assert bool(torch.isfinite(solution.error_directions).all())


@pytest.mark.parametrize(
    ("options", "found"), [({"method": "lu"}, "method='lu'"), ({"space": "both"}, "space='both'")]
)
def test_unknown_options_are_refused(options, found):
    with as_a_user(), pytest.raises(InputError, match=found):
        Exact(**options)


def test_running_out_of_memory_names_the_stage_and_the_setting():
    class Huge(DenseOperator):
        def to_dense(self):
            return torch.empty(10**15)  # 4 petabytes: the allocator's own failure

    with pytest.raises(OutOfMemoryError, match=r"while factorising the dense curvature.*solver=CG"):
        Exact().prepare(Huge(with_spectrum(SPECTRUM)))
