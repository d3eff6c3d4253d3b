"""Extreme eigenpairs against dense eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.matrices import SPECTRA, Counted, network_hessian, with_eigenvalues
from tests.problems import normal
from tests.support import as_a_user
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.linalg import DenseOperator, DiagonalOperator, extreme_eigenpairs


def check(found, matrix, k, which):
    """What the docstring promises, in float64."""
    matrix = matrix.double()
    true = torch.linalg.eigvalsh(matrix)
    true = true.flip(0)[:k] if which == "largest" else true[:k]
    vectors = found.vectors.double()
    eps = torch.finfo(found.vectors.dtype).eps
    measured = (matrix @ vectors - vectors * found.values).norm(dim=0)
    assert bool((measured <= found.residuals + 1e-300).all())
    assert torch.allclose(vectors.T @ vectors, torch.eye(k).double(), atol=100 * eps)
    assert found.values.dtype == found.residuals.dtype == torch.float64
    return true


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_values_vectors_and_residuals(name, dtype, which):
    operator = Counted(with_eigenvalues(SPECTRA[name], dtype=dtype))
    found = extreme_eigenpairs(operator, 6, which=which, max_products=2000)
    true = check(found, operator.operator.matrix, 6, which)
    assert found.converged
    assert found.products == operator.products
    scale = float(SPECTRA[name].abs().max())
    assert torch.allclose(found.values, true, atol=(1e-6 if dtype == torch.float64 else 1e-5) * scale)


def test_an_eigenvalue_lies_within_the_residual_whether_converged_or_not():
    operator = with_eigenvalues(normal(150))
    every = torch.linalg.eigvalsh(operator.matrix)
    for budget in (8, 12, 20, 40, 60, 90):
        found = extreme_eigenpairs(operator, 5, max_products=budget)
        assert found.products <= budget
        assert bool(((every[:, None] - found.values).abs().amin(0) <= found.residuals).all())
        assert bool((found.values <= every.flip(0)[:5] + 1e-12).all())  # Rayleigh-Ritz, from inside
    assert found.converged
    assert not extreme_eigenpairs(operator, 5, max_products=8).converged


def test_more_copies_of_a_value_than_the_block_is_wide():
    values = torch.cat([torch.full((7,), 4.0), torch.tensor([3.0]), torch.linspace(0, 1, 300)]).double()
    found = extreme_eigenpairs(DiagonalOperator(values), 9)
    assert torch.allclose(found.values, values[[*range(8), -1]], atol=1e-9)
    flat = extreme_eigenpairs(DiagonalOperator(values.clamp(min=0.5)), 8, which="smallest")
    assert torch.allclose(flat.values, torch.full((8,), 0.5).double(), atol=1e-9)


def test_decaying_spectra_need_few_products():
    values = 0.8 ** torch.arange(400, dtype=torch.float64)
    found = extreme_eigenpairs(DiagonalOperator(values), 10)
    assert found.converged and found.products < 60
    assert torch.allclose(found.values, values[:10], rtol=1e-8, atol=0)


def test_restarts_bound_the_memory_and_still_converge():
    values = torch.linspace(0, 1, 2000, dtype=torch.float64)
    found = extreme_eigenpairs(DiagonalOperator(values), 3, max_products=2000, tolerance=1e-5)
    assert found.converged and found.products > 100  # several times the basis
    assert torch.allclose(found.values, values.flip(0)[:3], atol=1e-7)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_hessian_of_a_network(which):
    operator, dense = network_hessian()
    found = extreme_eigenpairs(operator, 5, which=which)
    true = check(found, dense, 5, which)
    assert found.products < operator.size
    assert torch.allclose(found.values, true, atol=1e-9)
    assert float(true[-1]) > 0 if which == "largest" else float(true[0]) < 0


@given(
    p=st.integers(1, 70),
    k=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    which=st.sampled_from(["largest", "smallest"]),
)
def test_any_small_matrix(p, k, seed, which):
    k = min(k, p)
    values = normal(p, seed=seed)
    operator = with_eigenvalues(values, seed=seed)
    found = extreme_eigenpairs(operator, k, which=which, seed=seed)
    true = check(found, operator.matrix, k, which)
    assert found.converged
    assert torch.allclose(found.values, true, atol=1e-6 * float(values.abs().max()))
    mirrored = extreme_eigenpairs(
        -1.0 * operator, k, which="smallest" if which == "largest" else "largest", seed=seed
    )
    assert torch.allclose(mirrored.values, -found.values, atol=1e-6 * float(values.abs().max()))


def test_the_seed_decides():
    operator = with_eigenvalues(normal(100))
    first, again, other = (extreme_eigenpairs(operator, 2, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k=0: expected a whole number of at least 1"),
        ({"k": 101}, r"k=101: the operator has size 100; expected 1 ≤ k ≤ 100"),
        ({"which": "middle"}, r"which='middle': expected one of 'largest', 'smallest'"),
        ({"tolerance": 0.0}, r"tolerance=0.0: expected a positive number"),
        ({"tolerance": math.nan}, r"tolerance=nan"),
        ({"k": 5, "max_products": 6}, r"max_products=6: expected a whole number of at least 7"),
    ],
)
def test_what_is_refused(options, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        extreme_eigenpairs(with_eigenvalues(normal(100)), **options)


def test_products_that_are_not_finite():
    matrix = torch.eye(100, dtype=torch.float64)
    matrix[3, 3] = math.nan
    with pytest.raises(NonFiniteError, match=r"NaN or infinite"):
        extreme_eigenpairs(DenseOperator(matrix), 2)
    with pytest.raises(NonFiniteError, match=r"NaN or infinite"):
        extreme_eigenpairs(DenseOperator(matrix[:10, :10]), 2)


def test_a_loose_tolerance_does_not_settle_for_the_bulk():
    """Most eigenvalues next to zero, ten far above, one at −0.03: a random start lies in the bulk."""
    generator = torch.Generator().manual_seed(0)
    bulk = 1e-3 * torch.rand(489, generator=generator, dtype=torch.float64)
    values = torch.cat([torch.tensor([-0.03]).double(), bulk, torch.linspace(1, 4, 10).double()])
    basis = torch.linalg.qr(torch.randn(500, 500, generator=generator, dtype=torch.float64)).Q
    operator = DenseOperator((basis * values) @ basis.T)
    found = extreme_eigenpairs(operator, 1, which="smallest", tolerance=2e-3)
    assert abs(float(found.values[0]) + 0.03) < 0.008
