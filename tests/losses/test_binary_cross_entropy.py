"""Binary cross-entropy: equal to torch's with logits, its curvature to autograd's; the rest refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.losses import BinaryCrossEntropy
from wherefrom.testing.losses import check_curvature, check_differentiation, check_fisher

SHAPES = [(4,), (4, 1), (4, 3), (4, 2, 3)]


@settings(deadline=None, max_examples=60)
@given(
    shape=st.sampled_from(SHAPES),
    soft=st.booleans(),
    weight=st.sampled_from([None, "number", "vector"]),
    reduction=st.sampled_from(["sum", "mean"]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_equals_torch_and_its_curvature_autograd(shape, soft, weight, reduction, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(shape, dtype=torch.float64, generator=generator)
    targets = torch.rand(shape, dtype=torch.float64, generator=generator)
    targets = targets if soft else targets.round()
    pos_weight = {
        None: None,
        "number": torch.tensor(2.5, dtype=torch.float64),
        "vector": torch.rand(shape[1:][-1:] or (1,), dtype=torch.float64, generator=generator),
    }[weight]
    loss = BinaryCrossEntropy(pos_weight, reduction)
    loss.validate(outputs, targets)
    each = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight, reduction="none")
    each = each.reshape(len(each), -1)
    expected = each.sum(1) if reduction == "sum" else each.mean(1)
    torch.testing.assert_close(loss(outputs, targets), expected, rtol=1e-12, atol=1e-14)
    check_curvature(loss, outputs, targets)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pos_weight", [None, 3.0])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_every_mode_of_differentiation(shape, pos_weight):
    outputs = torch.randn(shape, dtype=torch.float64)
    outputs.view(-1)[0] = 0.0
    check_differentiation(BinaryCrossEntropy(pos_weight), outputs, torch.rand(shape, dtype=torch.float64))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_fisher_is_the_hessian(reduction):
    outputs = torch.randn(2, 3, dtype=torch.float64)
    check_fisher(BinaryCrossEntropy(reduction_over_outputs=reduction), outputs, torch.ones(2, 3))


def test_fisher_is_the_exact_expectation_over_both_labels():
    outputs = torch.randn(4, 1, dtype=torch.float64)
    loss = BinaryCrossEntropy()
    expected = torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    for label, probability in ((0.0, torch.sigmoid(-outputs)), (1.0, torch.sigmoid(outputs))):
        leaf = outputs.clone().requires_grad_()
        (u,) = torch.autograd.grad(loss(leaf, torch.full((4, 1), label)).sum(), leaf)
        expected += (probability * u.square())[..., None, None]
    root = loss.fisher_sqrt_blocks(outputs, torch.zeros(4, 1))
    torch.testing.assert_close(root @ root.mT, expected)


def test_fisher_with_pos_weight_is_refused():
    loss = BinaryCrossEntropy(pos_weight=2.0)
    with pytest.raises(UnsupportedError, match="pos_weight"):
        loss.fisher_sqrt_blocks(torch.zeros(2), torch.zeros(2))
    with pytest.raises(UnsupportedError, match="pos_weight"):
        loss.sample_gradients(torch.zeros(2), torch.zeros(2), torch.full((2, 1), 0.5))


def test_a_column_of_logits_meets_a_row_of_labels_without_broadcasting():
    outputs, targets = torch.randn(4, 1), torch.tensor([0, 1, 1, 0])
    expected = F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")
    torch.testing.assert_close(BinaryCrossEntropy()(outputs, targets), expected)
    torch.testing.assert_close(BinaryCrossEntropy()(outputs, targets.bool()), expected)


def test_second_derivative_keeps_its_accuracy_far_out():
    outputs = torch.tensor([-600.0, -40.0, 0.0, 40.0, 600.0], dtype=torch.float64)
    targets = torch.ones(5, dtype=torch.float64)
    leaf = outputs.clone().requires_grad_()
    (first,) = torch.autograd.grad(BinaryCrossEntropy()(leaf, targets).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    exact = torch.exp(-outputs.abs()) / (1 + torch.exp(-outputs.abs())) ** 2
    torch.testing.assert_close(second, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        BinaryCrossEntropy().hessian_blocks(outputs, targets).flatten(), exact, rtol=1e-12, atol=0
    )


def test_settings():
    assert BinaryCrossEntropy([1.0, 2.0], "mean").settings() == {
        "loss": "binary_cross_entropy",
        "pos_weight": [1.0, 2.0],
        "reduction_over_outputs": "mean",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pos_weight": -1.0}, "pos_weight is -1.0"),
        ({"pos_weight": float("inf")}, "pos_weight is inf"),
        ({"reduction_over_outputs": "max"}, "reduction_over_outputs is 'max'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        BinaryCrossEntropy(**options)


refused = {
    "label": (
        torch.zeros(3),
        torch.tensor([0.0, 2.0, 1.0]),
        {},
        r"label 2.0 at position \(1,\).*cross_entropy",
    ),
    "signs": (torch.zeros(2), torch.tensor([-1, 1]), {}, "loss='logistic'"),
    "shape": (torch.zeros(3, 2), torch.zeros(3), {}, "one target per output"),
    "transposed": (torch.zeros(2, 2, 3), torch.zeros(2, 3, 2), {}, "one target per output"),
    "batch": (torch.zeros(3), torch.zeros(2), {}, "one target per output"),
    "pos_weight": (
        torch.zeros(3, 2),
        torch.zeros(3, 2),
        {"pos_weight": [1.0, 1.0, 1.0]},
        "pos_weight has shape",
    ),
    "pos_weight over the batch": (
        torch.zeros(3),
        torch.zeros(3),
        {"pos_weight": [1.0, 2.0, 3.0]},
        "pos_weight has shape",
    ),
    "several": (
        torch.zeros(3, 2),
        torch.zeros(3, 2),
        {"reduction_over_outputs": None},
        "2 per example.*'sum' or 'mean'",
    ),
    "integer outputs": (torch.zeros(3, dtype=torch.long), torch.zeros(3), {}, "floating-point"),
    "list": (torch.zeros(3), [0, 1, 1], {}, "type list"),
}


@pytest.mark.parametrize("case", refused)
def test_bad_targets_are_refused(case):
    outputs, targets, options, message = refused[case]
    with pytest.raises(InputError, match=message):
        BinaryCrossEntropy(**options).validate(outputs, targets)


def test_targets_that_are_not_finite_are_refused():
    with pytest.raises(NonFiniteError, match=r"nan at position \(1,\)"):
        BinaryCrossEntropy().validate(torch.zeros(2), torch.tensor([0.0, float("nan")]))
