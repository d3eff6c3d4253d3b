"""Trace estimates: unbiased, with standard errors that hold, and better where the spectrum decays."""

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
from wherefrom.linalg import DiagonalOperator, estimate_trace

METHODS = ("xtrace", "hutch++", "hutchinson")


def repeated(operator, count=200, **options):
    """Errors and stated errors over seeds."""
    true = float(operator.to_dense().double().trace())
    found = [estimate_trace(operator, seed=seed, **options) for seed in range(count)]
    errors = torch.tensor([estimate.value - true for estimate in found], dtype=torch.float64)
    return errors, torch.tensor([estimate.standard_error for estimate in found], dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["indefinite", "power", "exponential", "cluster", "repeated"])
def test_unbiased_and_within_the_stated_error(name, method):
    errors, stated = repeated(with_eigenvalues(SPECTRA[name]), products=30, method=method)
    spread = float(errors.square().mean().sqrt())
    assert abs(float(errors.mean())) <= 4 * spread / 200**0.5
    assert float((errors.abs() <= 2 * stated).double().mean()) >= 0.88
    # XTrace may overstate where the spectrum decays fast, never by orders of magnitude.
    assert (
        0.85 * spread <= float(stated.square().mean().sqrt()) <= (6 if method == "xtrace" else 1.3) * spread
    )


@pytest.mark.parametrize(("name", "gain"), [("power", 5), ("exponential", 20)])
def test_deflation_pays_where_the_spectrum_decays(name, gain):
    size = {
        method: float(repeated(with_eigenvalues(SPECTRA[name]), 40, products=48, method=method)[0].norm())
        for method in METHODS
    }
    assert size["hutch++"] * gain < size["hutchinson"]
    assert size["xtrace"] < size["hutch++"]


@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["low_rank", "zero"])
def test_low_rank_is_exact(name, dtype, method):
    operator = with_eigenvalues(SPECTRA[name], dtype=dtype)
    estimate = estimate_trace(operator, products=30, method=method)
    slack = 1e3 * torch.finfo(dtype).eps
    assert estimate.value == pytest.approx(float(SPECTRA[name].sum()), abs=10 * slack)
    assert estimate.standard_error <= 10 * slack


def test_hutchinson_is_exact_on_a_diagonal():
    values = normal(200)
    estimate = estimate_trace(DiagonalOperator(values), products=10, method="hutchinson")
    assert estimate.value == pytest.approx(float(values.sum()))
    assert estimate.standard_error == pytest.approx(0, abs=1e-12)


@given(
    p=st.integers(1, 60),
    products=st.integers(6, 70),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 10**6),
)
def test_any_size_and_budget(p, products, method, seed):
    operator = Counted(with_eigenvalues(normal(p, seed=seed), seed=seed))
    estimate = estimate_trace(operator, products=products, method=method, seed=seed)
    assert estimate.products == operator.products <= products
    true = float(operator.operator.matrix.trace())
    if p <= products:
        assert estimate.standard_error == 0
        assert estimate.value == pytest.approx(true, abs=1e-12 * p)
    else:
        assert estimate.standard_error > 0
        assert abs(estimate.value - true) < 40 * p
    assert estimate == estimate_trace(operator, products=products, method=method, seed=seed)


@pytest.mark.parametrize("method", METHODS)
def test_the_hessian_of_a_network(method):
    operator, dense = network_hessian()
    estimate = estimate_trace(operator, products=60, method=method)
    assert abs(estimate.value - float(dense.trace())) <= 4 * estimate.standard_error + 1e-12
    assert estimate_trace(operator, products=200).value == pytest.approx(float(dense.trace()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, r"method='guess': expected one of 'xtrace', 'hutch\+\+', 'hutchinson'"),
        ({"products": 3}, r"products=3: expected a whole number of at least 4 for method='xtrace'"),
        (
            {"products": 5, "method": "hutch++"},
            r"products=5: expected a whole number of at least 6 for method='hutch\+\+'",
        ),
        (
            {"products": 1, "method": "hutchinson"},
            r"products=1: expected a whole number of at least 2 for method='hutchinson'",
        ),
        ({"products": 10.0}, r"products=10.0"),
    ],
)
def test_what_is_refused(options, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        estimate_trace(DiagonalOperator(normal(20)), **options)


@pytest.mark.parametrize("size", [3, 50])
def test_products_that_are_not_finite(size):
    operator = DiagonalOperator(torch.full((size,), math.nan, dtype=torch.float64))
    with pytest.raises(NonFiniteError, match=r"NaN or infinite"):
        estimate_trace(operator, products=8)
