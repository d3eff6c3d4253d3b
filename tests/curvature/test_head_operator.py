"""The head's Hessian as an operator, against autograd's dense Hessian and through solvers and spectra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacrev

from wherefrom.curvature import BlockwiseHeadOperator, HeadHessianOperator, softmax_jacobian
from wherefrom.curvature import head_operator as module
from wherefrom.errors import InputError
from wherefrom.linalg import LinearOperator, lanczos_spectrum
from wherefrom.losses import Cosine, FeatureDistance, Loss, SquaredError
from wherefrom.solvers import CG, Exact
from wherefrom.testing import check_operator


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def autograd_hessian(
    features: Tensor, theta: Tensor, c: int, bias: bool, loss: object, weights: Tensor | None
) -> Tensor:
    """`∇² of (1/n) Σ w_i ℓ_i` in `(W, b)`, by double reverse mode."""
    d = features.shape[1]

    def mean_loss(at: Tensor) -> Tensor:
        outputs = features @ at[: c * d].view(c, d).T + (at[c * d :] if bias else 0.0)
        losses = loss(outputs)
        return (losses if weights is None else weights * losses).mean()

    return jacrev(jacrev(mean_loss))(theta)


def check_closed_forms(operator: LinearOperator, expected: Tensor, d: int, c: int, bias: bool) -> None:
    torch.testing.assert_close(check_operator(operator), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(operator.diagonal(), expected.diagonal(), rtol=1e-9, atol=1e-11)
    assert operator.trace() == pytest.approx(float(expected.trace()), rel=1e-10)
    for one in range(c):
        for other in range(c):
            rows, columns = (
                [*range(k * d, (k + 1) * d), *([c * d + k] if bias else [])] for k in (one, other)
            )
            block = operator.class_block(one, other)
            torch.testing.assert_close(block, expected[rows][:, columns], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(operator.class_block(c - 1), operator.class_block(c - 1, c - 1))


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(1, 7),
    d=st.integers(1, 4),
    c=st.integers(2, 4),
    bias=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_softmax(n, d, c, bias, weighted, seed):
    features, theta = normal(n, d, seed=seed), normal(c * (d + bias), seed=seed + 1)
    weights = normal(n, seed=seed + 2).abs() if weighted else None
    labels = torch.arange(n) % c
    logits = features @ theta[: c * d].view(c, d).T + (theta[c * d :] if bias else 0.0)
    operator = HeadHessianOperator(features, logits, bias, weights)
    expected = autograd_hessian(
        features, theta, c, bias, lambda z: F.cross_entropy(z, labels, reduction="none"), weights
    )
    check_closed_forms(operator, expected, d, c, bias)
    assert operator.lower_bound == 0.0 and operator.n_examples == n


@pytest.mark.parametrize("loss", [SquaredError(), Cosine(), FeatureDistance(), FeatureDistance(0.5)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_other_losses_by_their_blocks(loss: Loss, bias, weighted):
    n, d, c = 6, 3, 4
    features, theta, targets = normal(n, d), normal(c * (d + bias), seed=1), normal(n, c, seed=2)
    weights = normal(n, seed=3).abs() if weighted else None
    outputs = features @ theta[: c * d].view(c, d).T + (theta[c * d :] if bias else 0.0)
    blocks = loss.hessian_blocks(outputs, targets)
    if isinstance(loss, SquaredError):
        blocks = torch.diag_embed(blocks[:, :, 0, 0])[:, None]
    operator = BlockwiseHeadOperator(features, blocks[:, 0], bias, weights, semidefinite=loss.convex)
    expected = autograd_hessian(features, theta, c, bias, lambda z: loss(z, targets), weights)
    check_closed_forms(operator, expected, d, c, bias)
    assert operator.lower_bound == (0.0 if loss.convex else -torch.inf)


def test_products_in_one_chunk_or_many(monkeypatch):
    operator = HeadHessianOperator(normal(23, 5), normal(23, 3, seed=1), True)
    vectors = normal(18, 7, seed=2)
    together = operator.matmat(vectors)
    monkeypatch.setattr(module, "_WORKSPACE", 4000)
    torch.testing.assert_close(operator.matmat(vectors), together, rtol=1e-12, atol=1e-14)


def test_solvers_and_spectra_take_it():
    operator = HeadHessianOperator(normal(40, 6), normal(40, 4, seed=1), True)
    damped, rhs = operator.damped(0.05), normal(28, 3, seed=2)
    expected = torch.linalg.solve(operator.to_dense() + 0.05 * torch.eye(28, dtype=torch.float64), rhs)
    for solver in (CG(rtol=1e-12), Exact()):
        torch.testing.assert_close(solver.prepare(damped).solve(rhs).x, expected, rtol=1e-8, atol=1e-10)
    largest = torch.linalg.eigvalsh(operator.to_dense())[-1]
    spectrum = lanczos_spectrum(operator, steps=28)
    assert spectrum.largest == pytest.approx(float(largest), rel=1e-8)
    assert operator.trace() == pytest.approx(float(operator.to_dense().trace()))


def test_directions_that_move_all_classes_alike_are_in_the_null_space():
    operator = HeadHessianOperator(normal(9, 5), 20 * normal(9, 3, seed=1), True)
    row = normal(5, seed=2)
    vector = torch.cat([row.repeat(3), torch.full((3,), 0.7, dtype=torch.float64)])
    assert operator.matvec(vector).abs().max() < 1e-14


def test_diagonal_of_confident_predictions_in_float32():
    features, logits = torch.ones(3, 1), torch.tensor([[30.0, 0.0], [0.0, 25.0], [40.0, 0.0]])
    exact = HeadHessianOperator(features.double(), logits.double(), False)
    found = HeadHessianOperator(features, logits, False)
    torch.testing.assert_close(found.diagonal().double(), exact.diagonal(), rtol=1e-5, atol=0)
    assert found.trace() == pytest.approx(exact.trace(), rel=1e-5)
    assert found.matmat(torch.ones(2, 1)).dtype == torch.float32


def test_negative_weights_prove_nothing_of_the_sign():
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert HeadHessianOperator(normal(2, 2), normal(2, 3), False, weights).lower_bound == -torch.inf


def test_refusals():
    with pytest.raises(InputError, match="expected n ≥ 1"):
        HeadHessianOperator(normal(0, 2), normal(0, 3), False)
    with pytest.raises(InputError, match="logits have 4 rows and features 5"):
        HeadHessianOperator(normal(5, 2), normal(4, 3), False)
    with pytest.raises(InputError, match="weights have 4 rows and features 5"):
        HeadHessianOperator(normal(5, 2), normal(5, 3), False, normal(4))
    with pytest.raises(InputError, match="blocks have 4 rows"):
        BlockwiseHeadOperator(normal(5, 2), softmax_jacobian(normal(4, 3)), False)
    with pytest.raises(InputError, match=r"class 3: expected 0\.\.2"):
        HeadHessianOperator(normal(5, 2), normal(5, 3), False).class_block(0, 3)
