"""Diagonal estimates: unbiased, with standard errors that hold, and better where the spectrum decays."""

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
from wherefrom.linalg import DiagonalOperator, estimate_diagonal

METHODS = ("xdiag", "diag++", "hutchinson")


def repeated(operator, count=60, **options):
    """Errors and stated errors, seeds by entries."""
    found = [estimate_diagonal(operator, seed=seed, **options) for seed in range(count)]
    true = operator.to_dense().diagonal().double()
    return torch.stack([each.values - true for each in found]), torch.stack(
        [e.standard_errors for e in found]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["indefinite", "power", "exponential", "cluster", "repeated"])
def test_unbiased_and_within_the_stated_errors(name, method):
    errors, stated = repeated(with_eigenvalues(SPECTRA[name]), products=30, method=method)
    spread = errors.square().mean(0).sqrt()
    assert bool((errors.mean(0).abs() <= 5.5 * spread / 60**0.5).all())
    assert float((errors.abs() <= 2 * stated).double().mean()) >= 0.9
    ratio = float(stated.square().mean().sqrt() / errors.square().mean().sqrt())
    assert 0.9 <= ratio <= (8 if method == "xdiag" else 1.15)


def test_vectors_that_share_each_other_do_not_hide_their_errors():
    # The worst case of leave-one-out estimates: all error comes from pairs of vectors.
    errors, stated = repeated(DiagonalOperator(torch.full((400,), 3.0).double()), products=40)
    assert float(errors.norm() / stated.norm()) == pytest.approx(1, abs=0.1)
    assert 0.92 <= float((errors.abs() <= 2 * stated).double().mean()) <= 0.97


def test_deflation_pays_where_the_spectrum_decays():
    operator = with_eigenvalues(SPECTRA["exponential"])
    size = {method: float(repeated(operator, 10, products=48, method=method)[0].norm()) for method in METHODS}
    assert 20 * size["diag++"] < size["hutchinson"]
    assert size["xdiag"] < size["diag++"]


@pytest.mark.parametrize("method", ["xdiag", "diag++"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["low_rank", "zero"])
def test_low_rank_is_exact(name, dtype, method):
    operator = with_eigenvalues(SPECTRA[name], dtype=dtype)
    found = estimate_diagonal(operator, products=30, method=method)
    slack = 1e3 * torch.finfo(dtype).eps
    assert torch.allclose(found.values, operator.matrix.diagonal().double(), atol=slack)
    assert bool((found.standard_errors <= slack).all())


@given(
    p=st.integers(1, 60),
    products=st.integers(6, 70),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 10**6),
)
def test_any_size_and_budget(p, products, method, seed):
    operator = Counted(with_eigenvalues(normal(p, seed=seed), seed=seed))
    found = estimate_diagonal(operator, products=products, method=method, seed=seed)
    assert found.products == operator.products <= products
    assert found.values.shape == found.standard_errors.shape == (p,)
    if p <= products:
        assert torch.allclose(found.values, operator.operator.matrix.diagonal(), atol=1e-12)
        assert not found.standard_errors.any()
    else:
        assert bool(found.standard_errors.isfinite().all())
    again = estimate_diagonal(operator, products=products, method=method, seed=seed)
    assert torch.equal(found.values, again.values)


@pytest.mark.parametrize("method", METHODS)
def test_the_hessian_of_a_network(method):
    operator, dense = network_hessian()
    found = estimate_diagonal(operator, products=90, method=method)
    inside = (found.values - dense.diagonal()).abs() <= 3 * found.standard_errors + 1e-12
    assert float(inside.double().mean()) > 0.93


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "xtrace"}, r"method='xtrace': expected one of 'xdiag', 'diag\+\+', 'hutchinson'"),
        ({"products": 3}, r"products=3: expected a whole number of at least 4 for method='xdiag'"),
        (
            {"products": 5, "method": "diag++"},
            r"products=5: expected a whole number of at least 6 for method='diag\+\+'",
        ),
        (
            {"products": 1, "method": "hutchinson"},
            r"products=1: expected a whole number of at least 2 for method='hutchinson'",
        ),
    ],
)
def test_what_is_refused(options, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        estimate_diagonal(DiagonalOperator(normal(20)), **options)


@pytest.mark.parametrize("size", [3, 50])
def test_products_that_are_not_finite(size):
    operator = DiagonalOperator(torch.full((size,), math.nan, dtype=torch.float64))
    with pytest.raises(NonFiniteError, match=r"NaN or infinite"):
        estimate_diagonal(operator, products=8)
