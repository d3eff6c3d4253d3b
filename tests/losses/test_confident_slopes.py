"""Slopes in the outputs keep their digits where a prediction is nearly certain: `p − 1` would lose them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, SmoothHinge

EPS = torch.finfo(torch.float32).eps
CERTAIN = torch.tensor([[20.0, 1.0, -3.0, 2.5], [-8.0, 14.0, -9.0, -30.0], [0.3, 0.1, -0.2, 0.7]])
LABELS = torch.tensor([0, 1, 3])
SINGLE = torch.tensor([25.0, -25.0, 60.0, -60.0, 0.5, -3.0])
ONES = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])


def by_classes(outputs: Tensor, mass: Tensor) -> Tensor:
    """`Σ_k m_k (p_c − [c = k])` with every complement as a sum over the others, in float64."""
    p = torch.softmax(outputs.double(), dim=1)
    made = torch.zeros_like(p)
    for k in range(p.shape[1]):
        for c in range(p.shape[1]):
            others = sum(p[:, j] for j in range(p.shape[1]) if j != k)
            made[:, c] += mass[:, k] * (-others if c == k else p[:, c])
    return made


def close(found: Tensor, expected: Tensor) -> None:
    """Entry by entry, to a few units of float32."""
    assert found.dtype == torch.float32
    assert float(((found.double() - expected).abs() / expected.abs()).max()) < 40 * EPS


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
@pytest.mark.parametrize("soft", [False, True])
def test_softmax(weights, soft):
    hot = one_hot(LABELS, 4).double()
    w = torch.ones(4).double() if weights is None else torch.tensor(weights).double()
    found = CrossEntropy(class_weights=weights).output_gradient(CERTAIN, hot.float() if soft else LABELS)
    close(found, by_classes(CERTAIN, hot * w))


def test_autograd_of_the_same_loss_is_wrong_there():
    """What this is for: the naive slope of the certain class has no digit left in float32."""
    leaf = CERTAIN.clone().requires_grad_()
    (naive,) = torch.autograd.grad(CrossEntropy()(leaf, LABELS).sum(), leaf)
    expected = by_classes(CERTAIN, one_hot(LABELS, 4).double())
    assert float(((naive.double() - expected).abs() / expected.abs())[0, 0]) > 0.5


def test_smoothed_and_mixed_targets():
    smoothed = one_hot(LABELS, 4).double() * 0.9 + 0.1 / 4
    expected = by_classes(CERTAIN, smoothed)
    found = CrossEntropy(label_smoothing=0.1).output_gradient(CERTAIN, LABELS)
    assert float((found.double() - expected).abs().max()) < 4 * EPS
    mixed = torch.tensor([[0.5, 0.5, 0, 0], [0, 1.0, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    found = CrossEntropy().output_gradient(CERTAIN, mixed)
    close(found, by_classes(CERTAIN, mixed.double()))


def test_tokens_and_ignored_ones():
    outputs = CERTAIN.repeat(2, 1, 1)
    labels = torch.stack([LABELS, torch.tensor([0, -100, 3])])
    found = CrossEntropy().output_gradient(outputs, labels)
    whole = by_classes(CERTAIN, one_hot(LABELS, 4).double())
    close(found[0], whole / 3)
    close(found[1][[0, 2]], whole[[0, 2]] / 2)
    assert float(found[1, 1].abs().max()) == 0.0


def test_binary():
    z = SINGLE.double()
    expected = torch.where(ONES > 0, -1 / (1 + z.exp()), 1 / (1 + (-z).exp()))
    close(BinaryCrossEntropy().output_gradient(SINGLE, ONES), expected)
    weighted = torch.where(ONES > 0, 3.0, 1.0).double() * expected
    close(BinaryCrossEntropy(pos_weight=3.0).output_gradient(SINGLE, ONES), weighted)
    close(Logistic().output_gradient(SINGLE, 2 * ONES - 1), expected)


def test_smooth_hinge():
    y, z = 2 * ONES - 1, SINGLE.double() / 10
    expected = -y.double() / (1 + ((y * z - 1) / 0.1).exp())
    close(SmoothHinge(0.1).output_gradient((SINGLE / 10), y)[:2], expected[:2])
    hinge = SmoothHinge(0.0).output_gradient(torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.ones(4))
    assert hinge.tolist() == [0.0, 0.0, -1.0, -1.0]
