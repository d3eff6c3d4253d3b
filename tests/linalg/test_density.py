"""Stochastic Lanczos quadrature against dense eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.matrices import SPECTRA, Counted, network_hessian, with_eigenvalues
from tests.problems import normal
from tests.support import as_a_user
from wherefrom.errors import InputError, NonFiniteError, NotPositiveDefiniteError
from wherefrom.linalg import DiagonalOperator, spectral_density


def bells(values, grid, width):
    z = (grid[:, None] - values) / width
    return (-0.5 * z.square()).exp().mean(1) / (width * math.sqrt(2 * math.pi))


@given(p=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_small_operators_are_exact(p, seed):
    values = normal(p, seed=seed).square()
    found = spectral_density(with_eigenvalues(values, seed=seed), steps=6, starts=5)
    assert found.exact and found.products == p
    assert found.trace().standard_error == 0
    assert found.trace().value == pytest.approx(float(values.sum()))
    assert found.log_determinant(0.1).value == pytest.approx(float((values + 0.1).log().sum()), abs=1e-9)
    assert found.effective_dimension(0.1).value == pytest.approx(float((values / (values + 0.1)).sum()))
    grid = torch.linspace(-1, 5, 50, dtype=torch.float64)
    density, error = found.density(grid, 0.3)
    assert torch.allclose(density, bells(values, grid, 0.3)) and not error.any()
    share, error = found.cumulative(grid.tolist())
    assert torch.allclose(share, (values <= grid[:, None]).double().mean(1)) and not error.any()


@pytest.mark.parametrize("name", [name for name in SPECTRA if name not in ("identity", "zero")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_integrals_are_within_their_errors(name, dtype):
    operator = Counted(with_eigenvalues(SPECTRA[name], dtype=dtype))
    found = spectral_density(operator, steps=28, starts=4)
    assert found.products == operator.products < 120
    damping = 0.1 - min(float(SPECTRA[name].min()), 0)
    values = SPECTRA[name]
    for estimate, true in (
        (found.trace(), values.sum()),
        (found.integral(torch.square), values.square().sum()),
        (found.log_determinant(damping), (values + damping).log().sum()),
        (found.effective_dimension(damping), (values / (values + damping)).sum()),
    ):
        assert estimate.standard_error < 0.5 * float(values.abs().sum() + 100)
        assert abs(estimate.value - float(true)) <= 5 * estimate.standard_error + 1e-4 * abs(float(true))
    slack = 1e-6
    assert float(values.min()) - slack <= found.smallest <= float(values.min()) + 0.1
    assert float(values.max()) + slack >= found.largest >= float(values.max()) - 0.1


@pytest.mark.parametrize("name", ["identity", "zero"])
def test_a_multiple_of_the_identity_takes_one_step(name):
    found = spectral_density(with_eigenvalues(SPECTRA[name]), steps=20, starts=4)
    assert found.products == 4
    value = float(SPECTRA[name][0])
    assert found.trace().value == pytest.approx(120 * value)
    grid = torch.tensor([value - 1, value - 0.1, value + 0.1, value + 1], dtype=torch.float64)
    assert torch.allclose(found.cumulative(grid)[0], torch.tensor([0.0, 0, 1, 1]).double())
    assert bool(found.density(grid)[0].isfinite().all())


def test_the_density_integrates_to_one_and_resolves_the_bulk():
    values = torch.cat([torch.linspace(0, 1, 580), torch.linspace(3, 4, 20)]).double()
    found = spectral_density(DiagonalOperator(values), steps=50, starts=8)
    grid = torch.linspace(-1, 5, 1200, dtype=torch.float64)
    density, error = found.density(grid, 0.1)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-6)
    assert bool(((density - bells(values, grid, 0.1)).abs() <= 6 * error + 0.01).all())
    share, error = found.cumulative([2.0])
    assert float(share[0]) == pytest.approx(580 / 600, abs=5 * float(error[0]))


def test_stated_errors_hold_at_their_rate():
    values = SPECTRA["indefinite"]
    operator = with_eigenvalues(values)
    inside = []
    for seed in range(200):
        estimate = spectral_density(operator, steps=6, starts=16, seed=seed).trace()
        inside.append(abs(estimate.value - float(values.sum())) <= 2 * estimate.standard_error)
    assert 0.88 <= sum(inside) / 200 <= 0.99  # Student's t with 15 degrees of freedom: 0.936


def test_one_start_has_no_standard_error():
    found = spectral_density(with_eigenvalues(SPECTRA["power"]), steps=10, starts=1)
    assert math.isnan(found.trace().standard_error)


def test_the_hessian_of_a_network():
    operator, dense = network_hessian()
    values = torch.linalg.eigvalsh(dense)
    found = spectral_density(operator, steps=15, starts=6)
    assert not found.exact
    assert found.smallest == pytest.approx(float(values[0]), abs=1e-3)
    assert found.largest == pytest.approx(float(values[-1]), abs=1e-6)
    estimate = found.trace()
    assert abs(estimate.value - float(values.sum())) <= 4 * estimate.standard_error
    with pytest.raises(NotPositiveDefiniteError, match=r"damping=0: the smallest eigenvalue found is -"):
        found.log_determinant()


def test_damping_that_does_not_suffice():
    found = spectral_density(DiagonalOperator(torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64)))
    for ask in (found.log_determinant, found.effective_dimension):
        with pytest.raises(
            NotPositiveDefiniteError, match=r"damping=2: .* is -2.*expected damping > 2"
        ) as caught:
            ask(2.0)
        assert caught.value.eigenvalue == -2
        assert math.isfinite(ask(caught.value.damping).value)
        with pytest.raises(InputError, match=r"damping=nan: expected a finite number"):
            ask(math.nan)
    singular = spectral_density(with_eigenvalues(SPECTRA["low_rank"]), steps=12, starts=3)
    with pytest.raises(NotPositiveDefiniteError):  # zero but for rounding
        singular.log_determinant()


def test_what_is_refused():
    operator = DiagonalOperator(torch.tensor([0.0, 1.0], dtype=torch.float64))
    found = spectral_density(operator)
    with as_a_user():
        for options, message in (
            ({"steps": 0}, r"steps=0: expected a whole number of at least 1"),
            ({"starts": 1.5}, r"starts=1.5"),
        ):
            with pytest.raises(InputError, match=message):
                spectral_density(operator, **options)
        with pytest.raises(InputError, match=r"width=0: expected a positive number"):
            found.density([0.0], 0)
        with pytest.raises(InputError, match=r"grid of shape \(1, 1\)"):
            found.density([[0.0]])
        with pytest.raises(InputError, match=r"expected one row of finite numbers"):
            found.cumulative([math.inf])
        with pytest.raises(NonFiniteError, match=r"not finite at the eigenvalue 0"):
            found.integral(torch.log)


@pytest.mark.parametrize("size", [3, 50])
def test_products_that_are_not_finite(size):
    operator = DiagonalOperator(torch.full((size,), math.nan, dtype=torch.float64))
    with pytest.raises(NonFiniteError, match=r"NaN or infinite"):
        spectral_density(operator, steps=2, starts=2)
