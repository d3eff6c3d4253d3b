"""The Nyström approximation: what is proved of it, float32, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Gram, gaussian, with_spectrum
from wherefrom.errors import UnsupportedError
from wherefrom.linalg import DenseOperator, DiagonalOperator
from wherefrom.solvers import CG, Nystrom

P = 50


def sketched(prepared) -> torch.Tensor:
    """`Â`, in units of the damping."""
    return prepared._basis @ torch.diag(prepared._values - 1) @ prepared._basis.T


@given(seed=st.integers(0, 10_000), decay=st.floats(0.2, 3), rank=st.integers(1, 50))
@settings(max_examples=30)
def test_it_never_exceeds_the_curvature_and_grows_with_the_rank(seed, decay, rank):
    """`0 ⪯ Â ⪯ A` in exact arithmetic, and eigenvalue by eigenvalue no more than the true ones."""
    values = torch.arange(1, P + 1, dtype=torch.float64) ** -decay
    matrix = with_spectrum(values, seed)
    prepared = Nystrom(rank=rank).prepare(DenseOperator(matrix, 0.0).damped(1.0), seed=seed)
    left = torch.linalg.eigvalsh(matrix - sketched(prepared))
    assert float(left[0]) >= -1e-12
    kept = prepared._values - 1
    assert bool((kept <= values[: len(kept)] + 1e-12).all()) and bool((kept >= 0).all())
    torch.testing.assert_close(prepared._basis.T @ prepared._basis, torch.eye(len(kept), dtype=torch.float64))


def test_it_is_exact_on_the_range_of_a_matrix_of_lower_rank():
    rows = gaussian(10, P)
    prepared = Nystrom(rank=15).prepare(Gram(rows).damped(2.0))
    torch.testing.assert_close(sketched(prepared), rows.T @ rows / 10 / 2.0, rtol=0, atol=1e-10)


def test_float32_products_leave_no_false_directions():
    matrix = with_spectrum(torch.logspace(0, -9, P, dtype=torch.float64))
    rhs = gaussian(P, 3)
    truth = torch.linalg.solve(matrix + 1e-3 * torch.eye(P, dtype=torch.float64), rhs)
    errors = []
    for dtype in (torch.float64, torch.float32):
        prepared = Nystrom(rank=30).prepare(DenseOperator(matrix.to(dtype), 0.0).damped(1e-3))
        errors.append(float((prepared.solve(rhs.to(dtype)).x.double() - truth).norm() / truth.norm()))
    assert errors[1] < 2 * errors[0]
    torch.testing.assert_close(prepared._basis.T @ prepared._basis, torch.eye(30), rtol=0, atol=1e-5)


def test_twice_the_effective_dimension_bounds_the_condition_number():
    """Frangella, Tropp & Udell, Theorem 5.1: expected condition number below 28 at rank 2⌈1.5 d⌉ + 1."""
    values = torch.arange(1, 201, dtype=torch.float64) ** -2.0
    damping = 1e-3
    dimension = float((values / (values + damping)).sum())
    rank = 2 * int(1.5 * dimension + 1) + 1
    operator = DenseOperator(with_spectrum(values), 0.0).damped(damping)
    conditions = []
    for seed in range(5):
        inverse = Nystrom(rank=rank).prepare(operator, seed=seed).as_preconditioner()
        root = torch.linalg.cholesky(operator.to_dense())
        spectrum = torch.linalg.eigvalsh(root.T @ inverse.matmat(root))
        conditions.append(float(spectrum[-1] / spectrum[0]))
    assert rank < 200 and sum(conditions) / 5 < 28


def test_preconditioned_conjugate_gradients_with_uneven_decay():
    rows = gaussian(100, P) * torch.logspace(1, -2, P, dtype=torch.float64)
    diagonal = torch.cat([torch.full((25,), 1e-3), torch.full((25,), 1e-2)]).double()
    operator = Gram(rows) + DiagonalOperator(diagonal)
    rhs = gaussian(P, 1)
    solver = CG(rtol=1e-8, preconditioner=Nystrom(rank=30))
    helped, plain = (s.prepare(operator).solve(rhs) for s in (solver, CG(rtol=1e-8)))
    expected = torch.linalg.solve(rows.T @ rows / 100 + torch.diag(diagonal), rhs)
    torch.testing.assert_close(helped.x, expected, rtol=0, atol=1e-5 * float(expected.norm()))
    assert int(helped.iterations.max()) < int(plain.iterations.max()) / 2
    assert solver.settings()["preconditioner"] == {"solver": "nystrom", "rank": 30}


def test_a_curvature_that_is_not_proven_semidefinite_or_without_damping_is_refused():
    matrix = with_spectrum([0.5, 1.0, 2.0])
    for operator in (DenseOperator(matrix).damped(1.0), DenseOperator(matrix, 0.0)):
        with pytest.raises(
            UnsupportedError, match=r"semi-definite.*curvature='ggn' with damping > 0.*Arnoldi"
        ):
            Nystrom(rank=2).prepare(operator)
