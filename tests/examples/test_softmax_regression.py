"""Gradients and Hessian against autograd; retraining against an independent optimiser from zero."""

import numpy as np
import pytest
import softmax_regression as softmax
import torch


def objective(problem, weights, without=None):
    losses = torch.nn.functional.cross_entropy(problem.x @ weights.T, problem.y, reduction="none")
    if without is not None:
        losses = losses * (torch.arange(problem.n) != without)
    return losses.sum() / problem.n + 0.5 * problem.alpha * weights.square().sum()


@pytest.fixture
def small():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 4, (40,), generator=generator)
    return softmax.Problem(x, y, 4, 0.01)


def test_loss_and_gradients_match_autograd_at_several_parameters(small, monkeypatch):
    monkeypatch.setattr(softmax, "ROWS", 16)  # several blocks, the last one short
    weights = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    totals, gradients = softmax.loss_sum_and_gradients(small, weights)
    for total, gradient, w in zip(totals, gradients, weights):
        w = w.clone().requires_grad_()
        expected = torch.nn.functional.cross_entropy(small.x @ w.T, small.y, reduction="sum")
        torch.testing.assert_close(total, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, w)[0], rtol=1e-11, atol=1e-11)
    each = softmax.losses(small.x, small.y, weights)
    torch.testing.assert_close(each.sum(dim=1), totals, rtol=1e-12, atol=1e-12)
    singles = [
        softmax.example_gradients(small.x, small.y, w.expand(small.n, -1, -1)).sum(dim=0) for w in weights
    ]
    torch.testing.assert_close(torch.stack(singles), gradients, rtol=1e-11, atol=1e-11)


def test_hessian_matches_autograd(small):
    weights = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.functional.hessian(lambda w: objective(small, w), weights).view(12, 12)
    torch.testing.assert_close(softmax.objective_hessian(small, weights), expected, rtol=1e-11, atol=1e-12)


def test_retraining_reaches_the_optimum_of_the_objective_without_the_example(small):
    optimum, factor = softmax.fit_exact(small, softmax.fit_lbfgs(small), tolerance=1e-13)
    removed = np.arange(7)
    result = softmax.retrain_without(small, optimum, factor, removed, tolerance=1e-13, batch=3)
    assert result.converged.all()
    for row, weights in zip(removed, result.weights):
        w = weights.clone().requires_grad_()
        slope = torch.autograd.grad(objective(small, w, without=row), w)[0]
        assert slope.norm() < 1e-12
        again = softmax.fit_lbfgs(small, without=int(row), gradient_tolerance=1e-9)
        torch.testing.assert_close(again.weights, weights, rtol=0, atol=1e-6)


def test_a_retraining_cut_short_is_flagged(small):
    optimum, factor = softmax.fit_exact(small, softmax.fit_lbfgs(small), tolerance=1e-13)
    result = softmax.retrain_without(small, optimum, factor, np.arange(4), tolerance=1e-13, max_iterations=1)
    assert not result.converged.any()
    assert (result.gradient_norm > 1e-13).all()


def test_training_cut_short_is_an_error(small):
    with pytest.raises(ArithmeticError, match="training stopped"):
        softmax.fit_exact(
            small, softmax.fit_lbfgs(small, gradient_tolerance=1e-1), tolerance=1e-13, max_iterations=1
        )
