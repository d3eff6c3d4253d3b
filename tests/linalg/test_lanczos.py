"""Extreme eigenvalues, their residual bounds and the trace against dense eigenvalues."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.problems import normal
from wherefrom.linalg import DenseOperator, lanczos_spectrum

sizes = st.integers(1, 40)
seeds = st.integers(0, 10**6)


def with_eigenvalues(values: Tensor, seed: int = 0) -> DenseOperator:
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed))[0]
    return DenseOperator((basis * values) @ basis.T)


@given(p=sizes, seed=seeds, steps=st.integers(1, 50), starts=st.integers(1, 3))
def test_ritz_values_are_inside_the_spectrum_and_within_their_residual(p, seed, steps, starts):
    values = normal(p, seed=seed).sort().values
    found = lanczos_spectrum(with_eigenvalues(values, seed), steps=steps, starts=starts, seed=seed)
    slack = 1e-12 * (1 + float(values.abs().max()))
    assert values[0] - slack <= found.smallest <= found.largest <= values[-1] + slack
    assert (values - found.largest).abs().min() <= found.largest_residual + slack
    assert (values - found.smallest).abs().min() <= found.smallest_residual + slack
    assert found.largest_upper == found.largest + found.largest_residual
    assert found.smallest_lower == found.smallest - found.smallest_residual
    assert found.products <= min(steps, p) * starts


@given(p=st.integers(1, 12), seed=seeds)
def test_as_many_steps_as_parameters_are_exact(p, seed):
    values = normal(p, seed=seed).sort().values
    found = lanczos_spectrum(with_eigenvalues(values, seed), steps=p, starts=2)
    assert found.smallest == pytest.approx(float(values[0]), abs=1e-7)
    assert found.largest == pytest.approx(float(values[-1]), abs=1e-7)


def test_separated_extremes_converge_long_before():
    values = torch.cat([torch.tensor([-3.0]), torch.linspace(0, 1, 198), torch.tensor([5.0])]).double()
    found = lanczos_spectrum(with_eigenvalues(values), steps=30)
    assert found.smallest == pytest.approx(-3.0, abs=1e-9)
    assert found.largest == pytest.approx(5.0, abs=1e-9)
    assert found.largest_residual < 1e-6


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_low_rank_exhausts_the_space_early(rank, dtype):
    values = torch.zeros(50, dtype=torch.float64)
    values[:rank] = torch.arange(1, rank + 1, dtype=torch.float64)
    operator = DenseOperator(with_eigenvalues(values).matrix.to(dtype))
    found = lanczos_spectrum(operator, steps=40, starts=2)
    tolerance = 1e3 * torch.finfo(dtype).eps
    assert found.largest == pytest.approx(rank, abs=tolerance)
    assert found.smallest == pytest.approx(0, abs=tolerance)
    assert found.products <= 2 * (rank + (2 if dtype == torch.float64 else 4))


def test_one_by_one():
    found = lanczos_spectrum(DenseOperator(torch.tensor([[-2.5]], dtype=torch.float64)))
    assert found.smallest == found.largest == found.trace == -2.5
    assert found.largest_residual == pytest.approx(0, abs=1e-12)


def test_a_multiple_of_the_identity_takes_one_step():
    found = lanczos_spectrum(DenseOperator(3 * torch.eye(20, dtype=torch.float64)), starts=2)
    assert found.smallest == pytest.approx(3)
    assert found.largest == pytest.approx(3)
    assert found.trace == pytest.approx(60)
    assert found.products == 2


def test_the_trace_is_unbiased():
    operator = with_eigenvalues(normal(30).square())
    trace = float(operator.matrix.trace())
    estimates = torch.tensor(
        [lanczos_spectrum(operator, steps=1, starts=20, seed=s).trace for s in range(100)]
    )
    assert float(estimates.mean()) == pytest.approx(trace, abs=5 * float(estimates.std()) / 10)


def test_the_seed_decides():
    operator = with_eigenvalues(normal(30))
    assert lanczos_spectrum(operator, steps=5, seed=1) == lanczos_spectrum(operator, steps=5, seed=1)
    assert lanczos_spectrum(operator, steps=5, seed=1) != lanczos_spectrum(operator, steps=5, seed=2)
