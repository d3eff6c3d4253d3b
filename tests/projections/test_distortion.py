"""The measured distortion against its definition, and what is expected of a random projection."""

from __future__ import annotations

import json

import pytest
import torch

from wherefrom.errors import InputError
from wherefrom.gradients.projections import Rademacher, measure_distortion


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_error_of_inner_products_and_norms_in_units_of_the_norms():
    projection = Rademacher(40, 1).bind(300)
    x = normal(12, 300) * torch.linspace(0.1, 9, 12)[:, None]
    x[5] = 0
    y = projection.apply(x)
    inner, norm = [], []
    for i in range(12):
        for j in range(i):
            if 5 not in (i, j):
                inner.append(float((y[i] @ y[j] - x[i] @ x[j]).abs() / (x[i].norm() * x[j].norm())))
        if i != 5:
            norm.append(float((y[i].norm() / x[i].norm() - 1).abs()))
    measured = measure_distortion(x, y, projection)
    assert (measured.p, measured.k, measured.sample) == (300, 40, 11)
    for found, errors in ((measured.inner_95, inner), (measured.norm_95, norm)):
        assert found == pytest.approx(float(torch.tensor(errors).quantile(0.95)), rel=1e-6)
    assert measured.inner_median == pytest.approx(sorted(inner)[(len(inner) - 1) // 2])
    assert measured.norm_median == pytest.approx(sorted(norm)[(len(norm) - 1) // 2])


def test_what_is_expected_is_what_is_measured_on_many_vectors():
    projection = Rademacher(200, 1).bind(2000)
    x = normal(60, 2000) + 0.3 * normal(1, 2000, seed=1)
    measured = measure_distortion(x, projection.apply(x), projection)
    assert measured.inner_95 == pytest.approx(measured.expected_inner_95, rel=0.25)
    assert measured.inner_median == pytest.approx(measured.expected_inner_median, rel=0.25)
    assert measured.norm_95 == pytest.approx(measured.expected_norm_95, rel=0.6)


def test_it_is_told_in_words_and_as_json():
    projection = Rademacher(40, 1).bind(3000)
    x = normal(12, 3000)
    measured = measure_distortion(x, projection.apply(x), projection)
    assert measured.describe().startswith("From 3,000 to 40 dimensions: on 12 gradients, inner products")
    assert f"{measured.inner_95:.2g}" in measured.describe()
    assert json.loads(json.dumps(measured.settings()))["norm_95"] == measured.norm_95


def test_fewer_than_two_vectors_that_are_not_zero_say_nothing():
    projection = Rademacher(4).bind(5)
    x = torch.zeros(3, 5, dtype=torch.float64)
    x[1] = 1
    with pytest.raises(InputError, match="1 of 3 gradients are not zero"):
        measure_distortion(x, projection.apply(x), projection)
