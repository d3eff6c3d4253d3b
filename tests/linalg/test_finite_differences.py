"""A claimed derivative is refused where it is wrong, and only there: not at kinks, not for noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jvp

from tests.problems import normal
from wherefrom.linalg.finite_differences import SHORT_STEPS, discrepancy

MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "square": torch.square,
    "relu": torch.relu,
    "abs": torch.abs,
    "sorted": lambda z: z.sort().values[::3],
    "rounded inside": lambda z: torch.tanh(z.float()).double(),
}


def along(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Callable[[float], Tensor]:
    return lambda h: function(x + h * v)


@pytest.mark.parametrize("name", MAPS)
@settings(max_examples=20)
# Roundings that are equal by chance on both sides, at one step and at two.
@example(seed=8540, scale=1e-3)
@example(seed=2992, scale=1.0)
@given(seed=st.integers(0, 10**4), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_a_right_derivative_passes_and_a_wrong_one_does_not(name, seed, scale):
    weights, x, v = normal(20, 30, seed=seed), normal(30, seed=seed + 1), normal(30, seed=seed + 2)

    def function(z: Tensor) -> Tensor:
        return scale * MAPS[name](weights @ z)

    right = jvp(function, (x,), (v,))[1]
    assert discrepancy(along(function, x, v), right) is None
    factor = 1.5 if name == "rounded inside" else 1.05
    wrong = right * factor
    found = discrepancy(along(function, x, v), wrong)
    assert found is not None
    assert found.relative == pytest.approx(1 - 1 / factor, rel=0.05)
    assert found.claimed == pytest.approx(float(wrong.norm()))


def test_a_kink_right_there_decides_nothing():
    def function(h: float) -> Tensor:
        return torch.relu(h * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))

    for claim in (0.0, 0.5, 1.0):
        assert discrepancy(function, torch.full((3,), claim, dtype=torch.float64)) is None


@pytest.mark.parametrize("function", [torch.sign, lambda z: z.bfloat16().double(), lambda z: (3 * z).round()])
def test_a_function_that_stands_still_has_no_slope(function):
    x, v = normal(6), normal(6, seed=5)
    found = discrepancy(along(function, x, v), v)
    assert found is not None
    assert (found.relative, found.measured) == (1.0, 0.0)
    assert discrepancy(along(function, x, v), torch.zeros_like(v)) is None


def test_noise_decides_nothing():
    generator = torch.Generator().manual_seed(0)

    def function(h: float) -> Tensor:
        return torch.randn(4, generator=generator, dtype=torch.float64)

    assert discrepancy(function, torch.ones(4, dtype=torch.float64)) is None


def test_infinite_values_decide_nothing():
    def function(h: float) -> Tensor:
        return torch.full((2,), float("inf") if h else 1.0, dtype=torch.float64)

    assert discrepancy(function, torch.ones(2, dtype=torch.float64)) is None


def test_short_steps_serve_float32():
    weights, x, v = normal(20, 30).float(), normal(30, seed=1).float(), normal(30, seed=2).float()

    def function(z: Tensor) -> Tensor:
        return torch.tanh(weights @ z / 5)

    right = jvp(function, (x,), (v,))[1]
    assert discrepancy(along(function, x, v), right, steps=SHORT_STEPS) is None
    assert discrepancy(along(function, x, v), 1.2 * right, steps=SHORT_STEPS) is not None
