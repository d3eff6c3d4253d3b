"""Squared error: a Gaussian likelihood, with torch's mean squared error among its scalings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wherefrom.errors import InputError, NonFiniteError
from wherefrom.losses import SquaredError
from wherefrom.testing.losses import check_curvature, check_differentiation, check_fisher


@settings(deadline=None, max_examples=30)
@given(
    shape=st.sampled_from([(4,), (4, 1), (4, 3), (4, 2, 3)]),
    scale=st.sampled_from([0.5, 1.0, 7.0]),
    reduction=st.sampled_from(["sum", "mean"]),
    seed=st.integers(0, 10_000),
)
def test_value_and_curvature(shape, scale, reduction, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(shape, dtype=torch.float64, generator=generator)
    targets = torch.randn(shape, dtype=torch.float64, generator=generator)
    loss = SquaredError(scale, reduction)
    loss.validate(outputs, targets)
    each = scale * (outputs - targets).square().reshape(4, -1)
    torch.testing.assert_close(loss(outputs, targets), each.sum(1) if reduction == "sum" else each.mean(1))
    check_curvature(loss, outputs, targets)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_every_mode_of_differentiation():
    check_differentiation(SquaredError(), torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3))


@pytest.mark.parametrize(("scale", "reduction"), [(0.5, "sum"), (1.0, "mean")])
def test_fisher_is_the_hessian(scale, reduction):
    check_fisher(SquaredError(scale, reduction), torch.randn(2, 3, dtype=torch.float64), torch.zeros(2, 3))


def test_default_has_the_identity_as_its_hessian_and_fisher():
    outputs, targets = torch.randn(3, 2), torch.zeros(3, 2)
    assert (SquaredError().hessian_blocks(outputs, targets) == 1).all()
    assert (SquaredError().fisher_sqrt_blocks(outputs, targets) == 1).all()


def test_a_column_of_outputs_meets_a_row_of_targets_without_broadcasting():
    outputs, targets = torch.randn(4, 1), torch.randn(4)
    torch.testing.assert_close(SquaredError()(outputs, targets), 0.5 * (outputs[:, 0] - targets).square())


def test_settings():
    assert SquaredError().settings() == {
        "loss": "squared_error",
        "scale": 0.5,
        "reduction_over_outputs": "sum",
    }


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(InputError, match=rf"^scale={scale}: expected a finite number above 0"):
        SquaredError(scale)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="reduction_over_outputs is 'max'"):
        SquaredError(reduction_over_outputs="max")
    with pytest.raises(InputError, match="one target per output"):
        SquaredError().validate(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(InputError, match="2 per example"):
        SquaredError(reduction_over_outputs=None).validate(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(NonFiniteError, match=r"inf at position \(2,\)"):
        SquaredError().validate(torch.zeros(3), torch.tensor([0.0, 1.0, float("inf")]))
