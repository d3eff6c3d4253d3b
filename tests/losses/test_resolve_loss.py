"""What users call a loss is honoured exactly or refused with what to do instead."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Logistic,
    SmoothHinge,
    SquaredError,
    resolve_loss,
)


def test_losses_and_names():
    loss = SmoothHinge(0.1)
    assert resolve_loss(loss) is loss
    assert type(resolve_loss("cross_entropy")) is CrossEntropy
    assert type(resolve_loss("Cross-Entropy")) is CrossEntropy
    assert type(resolve_loss("binary_cross_entropy")) is type(resolve_loss("bce")) is BinaryCrossEntropy
    assert resolve_loss("squared_error") == SquaredError(scale=0.5)
    assert resolve_loss("logistic") == Logistic()


def test_functions_and_modules_of_the_users_own():
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(1)

    assert resolve_loss(own).name == "own"
    resolved = resolve_loss(F.cross_entropy)
    assert type(resolved) is CustomLoss
    with pytest.raises(InputError, match=r"returned a scalar.*loss='cross_entropy'"):
        resolved.validate(torch.zeros(3, 2), torch.tensor([0, 1, 0]))

    class Weighted(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return 2 * super().forward(outputs, targets)

    changed = resolve_loss(Weighted(reduction="none"))
    assert type(changed) is CustomLoss
    outputs, targets = torch.randn(3, 4), torch.tensor([0, 1, 2])
    torch.testing.assert_close(changed(outputs, targets), 2 * CrossEntropy()(outputs, targets))


def mean_agrees(module: nn.Module, outputs: Tensor, targets: Tensor) -> None:
    loss = resolve_loss(module)
    loss.validate(outputs, targets)
    torch.testing.assert_close(loss(outputs, targets).mean(), module(outputs, targets))


OUTPUTS = torch.randn(4, 3, dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_mean_cross_entropy_is_the_mean_over_examples(smoothing):
    module = nn.CrossEntropyLoss(label_smoothing=smoothing)
    mean_agrees(module, OUTPUTS, LABELS)
    mean_agrees(module, OUTPUTS, OUTPUTS.softmax(1))
    tokens = torch.randn(4, 3, 3, dtype=torch.float64)  # square: torch's layout settles it
    mean_agrees(module, tokens, torch.randint(3, (4, 3)))
    mean_agrees(module, tokens, tokens.softmax(1))


def test_unreduced_cross_entropy_is_taken_with_all_its_options():
    weight = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    module = nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1, reduction="none")
    loss = resolve_loss(module)
    loss.validate(OUTPUTS, LABELS)
    torch.testing.assert_close(loss(OUTPUTS, LABELS), module(OUTPUTS, LABELS))
    with pytest.raises(InputError, match="positions per example"):
        loss.validate(torch.zeros(4, 3, 2), torch.zeros(4, 2, dtype=torch.long))


def test_ignored_targets_under_a_mean_are_refused_when_they_are_seen():
    loss = resolve_loss(nn.CrossEntropyLoss(ignore_index=1))
    loss.validate(OUTPUTS, torch.tensor([0, 2, 2, 0]))
    with pytest.raises(InputError, match=r"target \(2,\) is ignored.*token_reduction='mean' or 'sum'"):
        loss.validate(OUTPUTS, LABELS)


def test_binary_cross_entropy_with_logits():
    targets = torch.rand(4, 3, dtype=torch.float64)
    mean_agrees(nn.BCEWithLogitsLoss(), OUTPUTS, targets)
    mean_agrees(
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), OUTPUTS, targets
    )
    unreduced = nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(2.0))
    one = resolve_loss(unreduced)
    torch.testing.assert_close(
        one(OUTPUTS[:, :1], targets[:, :1]), unreduced(OUTPUTS[:, :1], targets[:, :1])[:, 0]
    )
    with pytest.raises(InputError, match="3 per example"):
        one.validate(OUTPUTS, targets)


def test_mean_squared_error():
    mean_agrees(nn.MSELoss(), OUTPUTS, torch.randn(4, 3, dtype=torch.float64))
    mean_agrees(nn.MSELoss(), OUTPUTS[:, 0], torch.randn(4, dtype=torch.float64))
    with pytest.raises(InputError, match="3 per example"):
        resolve_loss(nn.MSELoss(reduction="none")).validate(OUTPUTS, OUTPUTS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(torch.ones(3)), r"divides by the batch's sum of class weights.*class_weights="),
        (nn.CrossEntropyLoss(reduction="sum"), r"adds up the batch.*token_reduction='sum'"),
        (nn.BCEWithLogitsLoss(reduction="sum"), "adds up the batch"),
        (nn.MSELoss(reduction="sum"), "adds up the batch"),
        (nn.BCEWithLogitsLoss(weight=torch.ones(3)), "position in the batch"),
        (nn.SmoothL1Loss(), r"torch.nn.SmoothL1Loss has no closed form.*reduction='none'"),
        (nn.NLLLoss(reduction="none"), "torch.nn.NLLLoss"),
    ],
)
def test_torch_losses_without_an_exact_counterpart_are_refused(loss, message):
    with pytest.raises(UnsupportedError, match=message):
        resolve_loss(loss)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mse", r"not clear.*'squared_error' for ½"),
        ("mse_loss", "SquaredError"),
        ("smooth_hinge", r"SmoothHinge\(t=0.001\)"),
        ("hinge", "second derivative is zero"),
        ("custom", "loss=my_function"),
        ("cross_entrpy", "Did you mean 'cross_entropy'"),
        ("mean squared error", "not clear"),
        ("L1", "no curvature"),
        ("nll_loss", "log-probabilities"),
        ("zzz", "expected one of 'cross_entropy'"),
        (nn.CrossEntropyLoss, r"class CrossEntropyLoss.*CrossEntropyLoss\(...\)"),
        (SquaredError, "class SquaredError"),
        (3, "type int"),
        (None, "type NoneType"),
    ],
)
def test_what_is_no_loss_is_refused(loss, message):
    with pytest.raises(InputError, match=message):
        resolve_loss(loss)
