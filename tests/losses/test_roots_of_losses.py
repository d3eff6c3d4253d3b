"""Roots of the output curvature by parts and by drawing, for every loss."""

from __future__ import annotations

import pytest
import torch

from wherefrom.errors import UnsupportedError
from wherefrom.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    FeatureDistance,
    Logistic,
    Loss,
    SmoothHinge,
    SquaredError,
)

DRAWS = 600


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([[0, 2, 1], [3, -100, 2]])
SIGNS = torch.tensor([1.0, -1.0], dtype=torch.float64)
CASES: dict[str, tuple[Loss, torch.Tensor, torch.Tensor]] = {
    "tokens": (CrossEntropy(class_dim=-1), normal(2, 3, 4), LABELS),
    "weighted": (
        CrossEntropy(class_weights=[0.3, 2.0, 1.0, 0.5], label_smoothing=0.1),
        normal(2, 4),
        torch.tensor([0, 3]),
    ),
    "soft": (CrossEntropy(), normal(2, 4), torch.softmax(normal(2, 4, seed=1), 1)),
    "squares": (SquaredError(scale=0.7, reduction_over_outputs="mean"), normal(2, 3), normal(2, 3, seed=1)),
    "binary": (
        BinaryCrossEntropy(pos_weight=3.0),
        normal(2, 3),
        torch.tensor([[1.0, 0, 1], [0, 0, 1]]).double(),
    ),
    "hinge": (SmoothHinge(t=0.5), normal(2), SIGNS),
    "logistic": (Logistic(), normal(2), SIGNS),
    "distance": (FeatureDistance(smoothing=0.3), normal(2, 4), normal(2, 4, seed=1)),
}
LIKELIHOODS = ("tokens", "soft", "squares", "logistic")


@pytest.mark.parametrize("name", sorted(CASES))
def test_parts_of_roots(name):
    loss, outputs, targets = CASES[name]
    whole = loss.hessian_sqrt_blocks(outputs, targets)
    _, s, c, r = whole.shape
    assert r == loss.root_columns(c) and loss.roots_by_parts
    for positions in (slice(0, s), slice(s - 1, s)):
        for columns in (slice(0, r), slice(0, 1), slice(r // 2, r)):
            made = loss.hessian_sqrt_part(outputs, targets, positions, columns)
            torch.testing.assert_close(made, whole[:, positions, :, columns], rtol=1e-13, atol=1e-15)
    if name in LIKELIHOODS:
        fisher = loss.fisher_sqrt_blocks(outputs, targets)
        part = loss.fisher_sqrt_part(outputs, targets, slice(s - 1, s), slice(0, 1))
        torch.testing.assert_close(part, fisher[:, s - 1 :, :, :1], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_fisher_products(name):
    loss, outputs, targets = CASES[name]
    vectors = torch.stack([normal(*outputs.shape, seed=seed) for seed in (2, 3)])
    expected = Loss.fisher_apply(loss, vectors, outputs, targets)
    torch.testing.assert_close(loss.fisher_apply(vectors, outputs, targets), expected)


@pytest.mark.parametrize("name", ["weighted", "binary"])
def test_what_is_no_likelihood_has_no_fisher_product(name):
    loss, outputs, targets = CASES[name]
    with pytest.raises(UnsupportedError, match="not the negative logarithm of a likelihood"):
        loss.fisher_apply(outputs[None], outputs, targets)


@pytest.mark.parametrize("name", sorted(CASES))
def test_drawn_roots_have_the_hessian_as_their_second_moment(name):
    loss, outputs, targets = CASES[name]
    hessian = loss.hessian_blocks(outputs, targets)
    uniforms = torch.rand(
        DRAWS, *hessian.shape[:2], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    drawn = torch.stack([loss.sample_roots(outputs, targets, one) for one in uniforms])
    products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
    allowed = 6 * products.std(0) / DRAWS**0.5 + 1e-12
    assert bool(((products.mean(0) - hessian).abs() <= allowed).all())
    alone = loss.sample_roots(outputs[1:], targets[1:], uniforms[0, 1:])
    torch.testing.assert_close(alone, drawn[0, 1:])  # the same, whatever the batch


def test_a_custom_loss_draws_nothing():
    loss = CustomLoss(lambda f, y: (f - y).square().sum(1), convex=True)
    assert not loss.roots_by_parts and loss.root_columns(4) == 4
    with pytest.raises(UnsupportedError):
        loss.sample_roots(normal(2, 4), normal(2, 4), torch.full((2, 1), 0.5))
