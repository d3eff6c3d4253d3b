"""Closed forms of softmax cross-entropy and of a linear last layer, against autograd and dense sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jacrev, vmap

from wherefrom.curvature.head import HeadHessian
from wherefrom.curvature.softmax import (
    blockwise_head_hessian,
    head_gradient_split,
    head_hessian,
    softmax_jacobian,
    softmax_jacobian_apply,
)
from wherefrom.errors import InputError
from wherefrom.losses import SquaredError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_sum(features: Tensor, blocks: Tensor, bias: bool) -> Tensor:
    """`(1/n) Σ S ⊗ ẽẽᵀ` by one einsum, ordered as all weights, then all biases."""
    n, d = features.shape
    c = blocks.shape[1]
    wide = torch.cat([features, torch.ones(n, 1, dtype=features.dtype)], dim=1) if bias else features
    dense = torch.einsum("nab,ni,nj->aibj", blocks, wide, wide).reshape(c * wide.shape[1], -1) / n
    order = torch.arange(c * wide.shape[1]).view(c, -1)
    order = torch.cat([order[:, :d].reshape(-1), order[:, d:].reshape(-1)])
    return dense[order][:, order]


@settings(deadline=None, max_examples=30)
@given(c=st.integers(1, 7), scale=st.sampled_from([0.1, 1.0, 20.0]), seed=st.integers(0, 10_000))
def test_softmax_jacobian(c, scale, seed):
    logits = scale * normal(3, c, seed=seed)
    jacobian = softmax_jacobian(logits)
    torch.testing.assert_close(jacobian, vmap(jacrev(lambda z: z.softmax(0)))(logits), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=0)
    assert jacobian.sum(-1).abs().max() < 1e-15
    assert torch.linalg.eigvalsh(jacobian).min() > -1e-15
    vectors = normal(2, 3, c, seed=seed + 1)
    expected = torch.einsum("bij,kbj->kbi", jacobian, vectors)
    torch.testing.assert_close(softmax_jacobian_apply(logits, vectors), expected, rtol=1e-9, atol=1e-15)


def test_chain_rule_through_the_probabilities():
    logits, labels = normal(4, 3), torch.tensor([0, 2, 1, 1])
    gradient = -F.one_hot(labels, 3) / logits.softmax(1)  # ∇_p ℓ of −log p_y
    through = torch.einsum("bij,bj->bi", softmax_jacobian(logits), gradient)
    torch.testing.assert_close(through, logits.softmax(1) - F.one_hot(labels, 3))


@pytest.mark.parametrize("soft", [False, True])
def test_gradient_split_is_the_chain_rule(soft):
    features, weight, bias = normal(5, 4), normal(3, 4, seed=1), normal(3, seed=2)
    targets = normal(5, 3, seed=3).softmax(1) if soft else torch.tensor([0, 1, 2, 0, 1])

    def loss(w: Tensor, b: Tensor, e: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(w @ e + b, y)

    expected = vmap(grad(loss, argnums=(0, 1, 2)), in_dims=(None, None, 0, 0))(
        weight, bias, features, targets
    )
    split = head_gradient_split(features, features @ weight.T + bias, targets, weight)
    for have, want in zip((split.weight, split.bias, split.features), expected):
        torch.testing.assert_close(have, want)


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(1, 6),
    d=st.integers(1, 4),
    c=st.integers(2, 4),
    bias=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_head_hessian_equals_autograd(n, d, c, bias, weighted, seed):
    features, parameters = normal(n, d, seed=seed), normal(c * d + bias * c, seed=seed + 1)
    labels = torch.arange(n) % c
    weights = normal(n, seed=seed + 2).abs() if weighted else None

    def logits(theta: Tensor) -> Tensor:
        out = features @ theta[: c * d].view(c, d).T
        return out + theta[c * d :] if bias else out

    def mean_loss(theta: Tensor) -> Tensor:
        losses = F.cross_entropy(logits(theta), labels, reduction="none")
        return (losses if weights is None else losses * weights).mean()

    dense = head_hessian(features, logits(parameters), bias, weights)
    torch.testing.assert_close(dense, jacrev(jacrev(mean_loss))(parameters), rtol=1e-8, atol=1e-12)
    # For the head alone the Gauss-Newton matrix is the Hessian.
    jacobian = jacrev(logits)(parameters)
    factors = torch.ones(n, dtype=torch.float64) if weights is None else weights
    ggn = (
        torch.einsum("n,nap,nab,nbq->pq", factors, jacobian, softmax_jacobian(logits(parameters)), jacobian)
        / n
    )
    torch.testing.assert_close(dense, ggn, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("d", [3, 191, 192, 250])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("workspace", [None, 20_000])
def test_narrow_and_wide_features_in_one_chunk_or_many(d, bias, workspace):
    features, logits = normal(23, d), normal(23, 4, seed=1)
    blocks = softmax_jacobian(logits)
    expected = dense_sum(features, blocks, bias)
    weights = normal(23, seed=2).abs()
    dense = head_hessian(features, logits, bias, workspace=workspace)
    torch.testing.assert_close(dense, expected, rtol=1e-10, atol=1e-14)
    assert torch.equal(dense, dense.T)
    dense = head_hessian(features, logits, bias, weights, workspace=workspace)
    torch.testing.assert_close(dense, dense_sum(features, weights[:, None, None] * blocks, bias))
    for zero in (False, True):
        general = blockwise_head_hessian(
            features, blocks, include_bias=bias, rows_sum_to_zero=zero, workspace=workspace
        )
        torch.testing.assert_close(general, expected, rtol=1e-10, atol=1e-14)


def test_any_loss_and_indefinite_curvature():
    features, outputs = normal(9, 5), normal(9, 3, seed=1)
    blocks = normal(9, 3, 3, seed=2)
    blocks = blocks + blocks.mT
    torch.testing.assert_close(
        blockwise_head_hessian(features, blocks, include_bias=True), dense_sum(features, blocks, True)
    )
    squares = SquaredError().hessian_blocks(outputs, torch.zeros(9, 3))[:, :, 0, 0]
    ridge = blockwise_head_hessian(features, torch.diag_embed(squares))
    torch.testing.assert_close(ridge, torch.block_diag(*[features.T @ features / 9] * 3))


def test_a_column_of_ones_puts_each_bias_behind_its_weights():
    features, blocks = normal(6, 2), softmax_jacobian(normal(6, 3, seed=1))
    ones = torch.cat([features, torch.ones(6, 1, dtype=torch.float64)], dim=1)
    order = torch.tensor([0, 1, 3, 4, 6, 7, 2, 5, 8])
    class_major = blockwise_head_hessian(ones, blocks)
    torch.testing.assert_close(
        class_major[order][:, order], blockwise_head_hessian(features, blocks, include_bias=True)
    )


def test_parts_add_up_to_the_whole():
    features, logits = normal(10, 3), normal(10, 4, seed=1)
    head = HeadHessian(3, 4, include_bias=True, rows_sum_to_zero=True)
    head.add(features[:3], softmax_jacobian(logits[:3]))
    head.add_softmax(features[3:], logits[3:].softmax(1), None)
    torch.testing.assert_close(head.dense(divide_by=10), head_hessian(features, logits, True))


@pytest.mark.parametrize("d", [5, 200])
def test_float32_features_can_be_accumulated_in_float64(d):
    features, logits = normal(50, d).float(), normal(50, 3, seed=1).float()
    assert head_hessian(features, logits, True).dtype == torch.float32
    dense = head_hessian(features, logits, True, dtype=torch.float64)
    assert dense.dtype == torch.float64
    expected = dense_sum(features.double(), softmax_jacobian(logits.double()), True)
    torch.testing.assert_close(dense, expected, rtol=1e-12, atol=1e-14)


def test_confident_float32_predictions_keep_relative_accuracy():
    logits = torch.tensor([[20.0, 0.0, 1.0], [0.0, 25.0, 3.0]])
    exact = softmax_jacobian(logits.double())
    torch.testing.assert_close(softmax_jacobian(logits).double(), exact, rtol=1e-5, atol=0)
    features = torch.ones(2, 1)
    torch.testing.assert_close(
        head_hessian(features, logits, False).double(), exact.mean(0), rtol=1e-5, atol=0
    )


def test_bad_use_is_refused():
    with pytest.raises(InputError, match="there are none"):
        head_hessian(torch.zeros(0, 3), torch.zeros(0, 2), False)
    with pytest.raises(InputError, match="there are none"):
        blockwise_head_hessian(torch.zeros(0, 3), torch.zeros(0, 2, 2))
    with pytest.raises(InputError, match="rows_sum_to_zero=True"):
        HeadHessian(3, 2, include_bias=False).add_softmax(torch.zeros(1, 3), torch.zeros(1, 2), None)
