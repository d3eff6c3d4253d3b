"""Every loss keeps the contract at outputs where it has two derivatives, and a broken promise is found."""

from __future__ import annotations

import pytest
import torch

from wherefrom.losses import (
    BinaryCrossEntropy,
    Cosine,
    CrossEntropy,
    CustomLoss,
    FeatureDistance,
    SmoothHinge,
    SquaredError,
)
from wherefrom.testing import check_loss


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSES = torch.tensor([0, 2, 1, 2])
CASES = {
    "cross entropy": (CrossEntropy(), normal(4, 3), CLASSES),
    "cross entropy of tokens": (
        CrossEntropy(),
        normal(4, 2, 3),
        torch.tensor([[0, 1], [2, 2], [1, 0], [2, 1]]),
    ),
    "binary": (BinaryCrossEntropy(), normal(4), torch.tensor([0.0, 1.0, 1.0, 0.0]).double()),
    "squared error": (SquaredError(), normal(4, 2), normal(4, 2, seed=1)),
    "hinge": (SmoothHinge(0.5), normal(4), torch.tensor([-1.0, 1.0, 1.0, -1.0]).double()),
    "cosine": (Cosine(), normal(4, 3), normal(4, 3, seed=1)),
    "feature distance": (FeatureDistance(0.3), normal(4, 3), normal(4, 3, seed=1)),
    "a function": (CustomLoss(lambda f, y: ((f - y) ** 4).sum(-1)), normal(4, 3), normal(4, 3, seed=1)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_loss(case):
    check_loss(*CASES[case])


class Wrong(SquaredError):
    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault
        self.name = "" if fault == "name" else "wrong"
        self.range = (1e6, 2e6) if fault == "range" else (0.0, float("inf"))

    def __call__(self, outputs, targets):
        values = super().__call__(outputs, targets)
        return values - values.mean() + 1 if self.fault == "batch" else values

    def output_gradient(self, outputs, targets):
        return super().output_gradient(outputs, targets) * (2 if self.fault == "slope" else 1)

    def hessian_blocks(self, outputs, targets):
        return super().hessian_blocks(outputs, targets) * (2 if self.fault == "curvature" else 1)

    def root_columns(self, values):
        return super().root_columns(values) + (self.fault == "columns")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("name", "name is empty"),
        ("range", "outside range"),
        ("batch", "other examples of its batch"),
        ("slope", "."),
        ("curvature", "."),
        ("columns", "root_columns"),
    ],
)
def test_a_broken_promise_is_found(fault, words):
    check_loss(Wrong("none"), normal(4, 2), normal(4, 2, seed=1))
    with pytest.raises(AssertionError, match=words):
        check_loss(Wrong(fault), normal(4, 2), normal(4, 2, seed=1))
