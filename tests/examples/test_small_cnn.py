"""The small network: its size, its gradient, and retraining of many copies against a plain loop over one."""

import math

import numpy as np
import pytest
import small_cnn
import torch
from torch.func import functional_call

ALPHA = 0.01


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, 1, 21, 21, dtype=torch.float64, generator=generator)
    return small_cnn.Problem(x, torch.randint(0, 10, (24,), generator=generator), ALPHA)


@pytest.fixture
def model():
    return small_cnn.network(0, width=2).double()


def whole_gradient(problem, model, theta, without=None):
    """`∇J` of all examples but one, from scratch."""
    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    outputs = functional_call(model, theta, (problem.x,))
    losses = torch.nn.functional.cross_entropy(outputs, problem.y, reduction="none")
    if without is not None:
        losses = losses * (torch.arange(problem.n) != without)
    decay = sum(value.square().sum() for name, value in theta.items() if name.endswith("weight"))
    total = losses.sum() / problem.n + 0.5 * ALPHA * decay
    return dict(zip(theta, torch.autograd.grad(total, list(theta.values()))))


def test_size_of_the_published_network():
    assert sum(p.numel() for p in small_cnn.network(0).parameters()) == 2616
    assert small_cnn.network(0)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_training_lowers_the_objective_and_repeats(problem):
    def run():
        fresh = small_cnn.network(0, width=2).double()
        return small_cnn.train(problem, fresh, epochs=5, rate=0.02, batch=7, seed=3)

    start = small_cnn.network(0, width=2).double()
    first, second = run(), run()
    before, after = (small_cnn.objective(m, problem.x, problem.y, ALPHA) for m in (start, first))
    assert after < before
    for a, b in zip(first.parameters(), second.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_mean_gradient(problem, model):
    expected = whole_gradient(problem, model, dict(model.named_parameters()))
    found = small_cnn.mean_gradient(problem, model)
    for name, p in model.named_parameters():
        decay = ALPHA * p if small_cnn.is_weight(name) else 0.0
        torch.testing.assert_close(found[name] + decay, expected[name])


def test_batches_take_every_row_once_and_have_one_size():
    steps = small_cnn.Steps(rate=0.1, momentum=0.5, batch=4, count=5, seed=0)
    batches = list(steps.batches(10))
    assert [len(rows) for rows in batches] == [4] * 5
    assert len(set(torch.cat(batches[:2]).tolist())) == 8 and len(set(torch.cat(batches[2:4]).tolist())) == 8
    np.testing.assert_allclose(steps.times, 0.2 * np.arange(1, 6))


def test_whole_batches_are_gradient_descent_with_momentum_without_the_example(problem, model):
    """With all rows in every batch the variance reduction cancels: the plain loop, copy by copy."""
    measure = torch.rand(1, 1, 21, 21, dtype=torch.float64), torch.tensor([4])
    steps = small_cnn.Steps(rate=0.3, momentum=0.8, batch=24, count=6, seed=0)
    removed = np.array([small_cnn.NONE, 3, 17])
    before = [p.clone() for p in model.parameters()]
    found = small_cnn.retrain_without(problem, model, removed, steps, measure)
    for row, without in enumerate((None, 3, 17)):
        theta = {name: p.detach().clone() for name, p in model.named_parameters()}
        velocity = {name: torch.zeros_like(p) for name, p in theta.items()}
        for step in range(steps.count):
            for name, slope in whole_gradient(problem, model, theta, without).items():
                velocity[name] = 0.8 * velocity[name] + slope
                theta[name] = theta[name] - 0.3 * velocity[name]
            loss = torch.nn.functional.cross_entropy(functional_call(model, theta, (measure[0],)), measure[1])
            assert math.isclose(found[step, row], float(loss), rel_tol=1e-9)
    for p, value in zip(model.parameters(), before):
        torch.testing.assert_close(p, value, rtol=0, atol=0)


def test_small_batches_stay_close_to_whole_ones(problem, model):
    """Variance reduction: near the start, sampled steps are nearly those of the whole objective."""
    measure = problem.x[:1], problem.y[:1]
    removed = np.array([small_cnn.NONE, 5])
    whole = small_cnn.Steps(rate=0.005, momentum=0.5, batch=24, count=20, seed=0)
    sampled = small_cnn.Steps(rate=0.005, momentum=0.5, batch=8, count=20, seed=0)
    expected = small_cnn.retrain_without(problem, model, removed, whole, measure)
    found = small_cnn.retrain_without(problem, model, removed, sampled, measure)
    moved = abs(expected[-1, 0] - expected[0, 0])
    assert np.abs(found - expected).max() < 0.05 * moved
    differences = found[:, 1] - found[:, 0]
    np.testing.assert_allclose(differences[-1], expected[-1, 1] - expected[-1, 0], rtol=0.1)


def test_copies_in_several_passes_are_the_same(problem, model, monkeypatch):
    measure = problem.x[:1], problem.y[:1]
    steps = small_cnn.Steps(rate=0.1, momentum=0.5, batch=8, count=3, seed=0)
    removed = np.array([small_cnn.NONE, 1, 2])
    together = small_cnn.retrain_without(problem, model, removed, steps, measure)
    monkeypatch.setattr(small_cnn, "COPIES", 2)
    told = []
    apart = small_cnn.retrain_without(
        problem, model, removed, steps, measure, progress=lambda done, total: told.append((done, total))
    )
    np.testing.assert_allclose(apart, together, rtol=1e-12)
    assert told == [(2, 3), (3, 3)]
