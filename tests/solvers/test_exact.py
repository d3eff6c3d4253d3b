"""Dense factorisation against plain solves: both methods, both spaces, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.problems import PROBLEMS
from tests.solvers.plain_operators import Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.curvature import GaussNewtonOperator, choose_curvature, gauss_newton
from wherefrom.errors import InputError, NotPositiveDefiniteError, OutOfMemoryError, UnsupportedError
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import DenseOperator, DiagonalOperator
from wherefrom.solvers import Exact, cost, dual

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
        NotPositiveDefiniteError, match=r"most negative eigenvalue is -0\.3.*damping=0\.4"
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
    prepared = Exact(space="dual").prepare(operator)
    solution = prepared.solve(rhs)
    dense = rows.T.double() @ rows.double() / 12 + torch.diag(diagonal.double())
    expected = torch.linalg.solve(dense, rhs.double())
    assert prepared.notes["space"] == "dual" and prepared.notes["size"] == 12
    assert prepared.lower_bound_proven and prepared.lower_bound == pytest.approx(0.05)
    torch.testing.assert_close(
        solution.x.double(), expected, rtol=0, atol=1e3 * torch.finfo(dtype).eps * float(expected.norm())
    )


def test_a_large_dual_space_of_a_float32_operator_is_factorised_in_float32_and_refined(monkeypatch):
    monkeypatch.setattr(cost, "_DOUBLE_SIZE", 10)
    rows = gaussian(60, 90, dtype=torch.float32)
    rhs = gaussian(90, 4, seed=5, dtype=torch.float32)
    for damping, precision in ((0.01, "float32"), (1e-5, "float64")):
        operator = Gram(rows) + DiagonalOperator(torch.full((90,), damping))
        prepared = Exact(space="dual").prepare(operator)
        assert prepared.notes["precision"] == precision
        solution = prepared.solve(rhs)
        truth = rows.T.double() @ rows.double() / 60 + damping * torch.eye(90, dtype=torch.float64)
        expected = torch.linalg.solve(truth, rhs.double())
        error = (solution.x.double() - expected).norm(dim=0) / expected.norm(dim=0)
        assert float(error.max()) < 2e-5
        again = Exact(space="dual").prepare(operator).solve(rhs)
        assert torch.equal(again.x, solution.x)
    wide = Exact(space="dual").prepare(Gram(rows.double()).damped(0.01))
    assert wide.notes["precision"] == "float64"


def test_a_matrix_that_float32_cannot_factorise_is_formed_again_in_float64(monkeypatch):
    monkeypatch.setattr(cost, "_DOUBLE_SIZE", 10)
    monkeypatch.setattr(dual, "_SINGLE_CONDITION", float("inf"))
    operator = Gram(gaussian(60, 20, dtype=torch.float32)).damped(1e-9)  # singular but for the damping
    assert Exact(space="dual").prepare(operator).notes["precision"] == "float64"


def test_damping_lost_in_rounding_is_refused_with_one_that_is_not():
    operator = Gram(gaussian(60, 20))
    with pytest.raises(NotPositiveDefiniteError, match=r"damping: .*1e-25 are lost.*damping=") as caught:
        Exact(space="dual").prepare(operator.damped(1e-25))
    Exact(space="dual").prepare(operator.damped(caught.value.damping))


@pytest.mark.parametrize("decay", [0.05, {"*": 0.2, "*weight": 0.05}])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_in_its_dual_space(name, decay, monkeypatch):
    """From factored gradients, with the same weight decay for all or another one for biases."""
    monkeypatch.setattr(gauss_newton, "_SMALL_GRAM", 0.0)
    monkeypatch.setattr(GaussNewtonOperator, "_explicit_operations", lambda self: float("inf"))
    problem = PROBLEMS[name]()
    if isinstance(decay, dict) and not any(
        n.endswith("weight") for n in problem.objective().parameters.names
    ):
        decay = 0.05
    engine = GradientEngine(problem.objective(weight_decay=decay))
    operator = choose_curvature(engine, "ggn").operator
    assert operator.terms[0]._factored_gram() is not None
    rhs = gaussian(operator.size, 30, seed=3)
    prepared = Exact(space="dual").prepare(operator)
    expected = torch.linalg.solve(problem.dense().ggn() + torch.diag(operator.terms[1].diagonal), rhs)
    torch.testing.assert_close(prepared.solve(rhs).x, expected, rtol=1e-9, atol=1e-11)
    assert prepared.notes["size"] == operator.terms[0].rank


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
    # Not to the last bit: matrix products may round the first and the last column of a block differently.
    rounding = 1e-13 * SPECTRUM[-1] / SPECTRUM[0]
    expected = torch.linalg.solve(matrix, column)[:, 0]
    for each in (0, 2):
        assert float((solution.x[:, each] - expected).norm() / expected.norm()) < rounding
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


def test_a_factorisation_that_does_not_solve_the_system_is_not_convergence():
    """Products that are not those of the matrix that was factorised, as after heavy rounding."""

    class Rounded(DenseOperator):
        def matmat(self, vectors):
            return super().matmat(vectors) + 0.5 * vectors

        def to_dense(self):
            return self.matrix

    matrix = with_spectrum([0.1, 1.0, 5.0])
    operator = Rounded(matrix, 0.1)
    operator.matrix = matrix
    solver = Exact("eigh")
    solution = solver.prepare(operator).solve(gaussian(3, 2))
    assert float(solution.relative_residual.max()) > 1e-3
    assert not bool(solution.converged.any())
    assert "residual of the factorisation" in solution.reason and "damping" in solution.reason
