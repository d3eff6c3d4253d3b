"""Logistic loss and smooth hinge: losses of the margin, with labels −1 and +1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.losses import BinaryCrossEntropy, Logistic, SmoothHinge
from wherefrom.testing.losses import check_curvature, check_differentiation, check_fisher

Y = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)


def hinge(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (1 - targets * outputs).clamp(min=0)


@settings(deadline=None, max_examples=40)
@given(
    loss=st.sampled_from([Logistic(), SmoothHinge(1.0), SmoothHinge(0.1), SmoothHinge(0.01)]),
    column=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_curvature(loss, column, seed):
    outputs = 2 * torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    outputs = outputs[:, None] if column else outputs
    loss.validate(outputs, Y)
    check_curvature(loss, outputs, Y)


@pytest.mark.parametrize("loss", [Logistic(), SmoothHinge(0.5)])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_every_mode_of_differentiation(loss):
    check_differentiation(loss, torch.tensor([1.0, 0.0, -0.3, 2.0], dtype=torch.float64), Y)


def test_logistic_is_binary_cross_entropy_of_the_other_labels():
    outputs = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(Logistic()(outputs, Y), BinaryCrossEntropy()(outputs, (Y + 1) / 2))


def test_logistic_gradient_is_the_closed_form():
    outputs = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Logistic()(outputs, Y).sum(), outputs)
    torch.testing.assert_close(gradient, -torch.sigmoid(-Y * outputs.detach()) * Y)


def test_logistic_fisher_is_the_hessian():
    check_fisher(Logistic(), torch.randn(3, dtype=torch.float64), torch.ones(3))


def test_smooth_hinge_is_no_likelihood():
    with pytest.raises(UnsupportedError, match="'smooth_hinge' is not the negative logarithm"):
        SmoothHinge(0.1).fisher_sqrt_blocks(torch.zeros(4), Y)
    with pytest.raises(UnsupportedError, match="empirical_fisher"):
        SmoothHinge(0.1).sample_gradients(torch.zeros(4), Y, torch.full((4, 1), 0.5))


@pytest.mark.parametrize("t", [1.0, 1e-1, 1e-3, 1e-6, 1e-12, 1e-200, 1e-310])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smooth_hinge_tends_to_the_hinge_and_stays_finite(t, dtype):
    outputs = torch.tensor([-1e6, -3.0, 0.0, 0.999, 1.0, 1.001, 3.0, 1e6], dtype=dtype, requires_grad=True)
    targets = torch.ones(8, dtype=dtype)
    loss = SmoothHinge(t)(outputs, targets)
    excess = loss.detach().double() - hinge(outputs.detach(), targets).double()
    rounding = torch.finfo(dtype).eps * hinge(outputs.detach(), targets) + torch.finfo(dtype).tiny
    assert (excess >= -rounding).all() and (excess <= t * math.log(2) * (1 + 1e-6) + rounding).all()
    (first,) = torch.autograd.grad(loss.sum(), outputs, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), outputs)
    assert torch.isfinite(first).all() and torch.isfinite(second).all()
    assert first[4] == -0.5  # the kink is in the middle of the smooth part
    torch.testing.assert_close(
        SmoothHinge(t).hessian_blocks(outputs.detach(), targets).flatten(), second, rtol=1e-5, atol=0
    )


def test_smooth_hinge_value_against_its_formula():
    outputs = torch.linspace(-2, 3, 21, dtype=torch.float64)
    targets = torch.ones(21, dtype=torch.float64)
    for t in (0.5, 0.1):
        expected = t * torch.log(1 + torch.exp((1 - outputs) / t))
        torch.testing.assert_close(SmoothHinge(t)(outputs, targets), expected)


def test_temperature_zero_is_the_hinge_without_curvature():
    outputs = torch.tensor([-2.0, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    targets = torch.ones(4, dtype=torch.float64)
    loss = SmoothHinge(0.0)
    torch.testing.assert_close(loss(outputs, targets), hinge(outputs, targets))
    (gradient,) = torch.autograd.grad(loss(outputs, targets).sum(), outputs)
    assert gradient.tolist() == [-1.0, -1.0, 0.0, 0.0]
    assert (loss.hessian_blocks(outputs, targets) == 0).all()
    assert (loss.hessian_sqrt_blocks(outputs, targets) == 0).all()
    assert (loss.hessian_apply(torch.ones(2, 4), outputs, targets) == 0).all()


def test_settings():
    assert SmoothHinge(0.1).settings() == {"loss": "smooth_hinge", "t": 0.1}
    assert Logistic().settings() == {"loss": "logistic"}


@pytest.mark.parametrize("t", [-0.1, float("nan"), float("inf")])
def test_a_temperature_out_of_range_is_refused(t):
    with pytest.raises(InputError, match=rf"^t={t}: expected zero .* or a positive number"):
        SmoothHinge(t)


@pytest.mark.parametrize("loss", [Logistic(), SmoothHinge(0.1)])
def test_bad_targets_are_refused(loss):
    with pytest.raises(InputError, match=r"label 0 at position \(0,\).*2 \* y − 1"):
        loss.validate(torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"one output per example.*cross_entropy"):
        loss.validate(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(InputError, match="one target per output"):
        loss.validate(torch.zeros(2, 1), torch.ones(3))
    with pytest.raises(NonFiniteError, match="nan"):
        loss.validate(torch.zeros(2), torch.tensor([1.0, float("nan")]))
