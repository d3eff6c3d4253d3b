"""Gradient descent follows the flow of the modified loss an order closer than the flow of the loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wherefrom.errors import DivergenceError, InputError
from wherefrom.studies.geometry import (
    flow_errors,
    gradient_descent,
    gradient_flow,
    mean_loss,
    modified_loss,
    parameter_gradient_penalty,
)
from wherefrom.task import Objective

EIGENVALUES = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


def quadratic(theta):
    return 0.5 * (EIGENVALUES * theta.square()).sum()


def tanh_network():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(3, 4, dtype=torch.float64), nn.Tanh(), nn.Linear(4, 1, dtype=torch.float64)
    )
    x = torch.randn(12, 3, dtype=torch.float64)
    return model, x, x.prod(1, keepdim=True) + 0.1 * torch.randn(12, 1, dtype=torch.float64)


def test_quadratic_in_closed_form():
    start = torch.ones(3, dtype=torch.float64)
    time, count = 2.0, 20
    rate = time / count
    torch.testing.assert_close(
        gradient_flow(quadratic, start, time), (-EIGENVALUES * time).exp(), rtol=1e-8, atol=1e-10
    )
    # ∇L̃ = (A + (h/2) A²) θ.
    bent = EIGENVALUES + rate / 2 * EIGENVALUES**2
    flow = gradient_flow(quadratic, start, time, learning_rate=rate)
    torch.testing.assert_close(flow, (-bent * time).exp(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        gradient_descent(quadratic, start, rate, count), (1 - rate * EIGENVALUES) ** count
    )
    torch.testing.assert_close(start, torch.ones_like(start), rtol=0, atol=0)


def test_orders_on_a_quadratic():
    errors = flow_errors(quadratic, torch.ones(3, dtype=torch.float64), 1.0, steps=(16, 32, 64, 128))
    assert errors.plain_order == pytest.approx(1.0, abs=0.1)
    assert errors.modified_order == pytest.approx(2.0, abs=0.1)
    assert errors.modified[-1] < 0.05 * errors.plain[-1]


def test_orders_on_a_network():
    model, x, y = tanh_network()
    objective = Objective(model, (x, y), loss="squared_error")
    errors = flow_errors(mean_loss(objective), objective.parameters.flat(), 2.0, steps=(32, 64, 128))
    assert errors.plain_order == pytest.approx(1.0, abs=0.1)
    assert errors.modified_order == pytest.approx(2.0, abs=0.15)
    assert all(b < a for a, b in zip(errors.plain, errors.modified))


def test_gradient_descent_is_that_of_torch():
    model, x, y = tanh_network()
    objective = Objective(model, (x, y), loss="squared_error")
    found = gradient_descent(mean_loss(objective), objective.parameters.flat(), 0.1, 15)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(15):
        optimiser.zero_grad()
        (0.5 * (model(x) - y).square().sum(1)).mean().backward()
        optimiser.step()
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(found, after)


def test_modified_loss_and_its_gradient_are_those_of_the_flow():
    model, x, y = tanh_network()
    rate = 0.3
    loss = modified_loss(model, "squared_error", x, y, rate)
    plain = modified_loss(model, "squared_error", x, y, 0.0)
    penalty = parameter_gradient_penalty(model, "squared_error", x, y)
    assert float(loss.detach()) == pytest.approx(float((plain + rate / 4 * penalty).detach()), rel=1e-12)
    objective = Objective(model, (x, y), loss="squared_error")
    start = objective.parameters.flat()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    short = 1e-4
    # The second-order term of the flow is of the size of `short`.
    moved = (start - gradient_flow(mean_loss(objective), start, short, learning_rate=rate)) / short
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.testing.assert_close(moved, flat, rtol=0, atol=1e-3 * float(flat.norm()))


def test_nothing_happens_in_no_time():
    start = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(gradient_flow(quadratic, start, 0.0), start)
    torch.testing.assert_close(gradient_descent(quadratic, start, 0.1, 0), start)


def test_refusals():
    start = torch.ones(3, dtype=torch.float64)
    model, x, y = tanh_network()
    for rate in (-0.1, float("nan")):
        with pytest.raises(InputError, match="learning_rate"):
            modified_loss(model, "squared_error", x, y, rate)
    with pytest.raises(InputError, match="float64"):
        gradient_flow(quadratic, start.float(), 1.0)
    with pytest.raises(InputError, match="time"):
        gradient_flow(quadratic, start, -1.0)
    with pytest.raises(InputError, match="time"):
        flow_errors(quadratic, start, 0.0)
    with pytest.raises(InputError, match="steps"):
        gradient_descent(quadratic, start, 0.1, -1)
    for steps in ((4,), (8, 4), (0, 4)):
        with pytest.raises(InputError, match="steps"):
            flow_errors(quadratic, start, 1.0, steps=steps)
    with pytest.raises(DivergenceError, match="learning_rate"):
        gradient_descent(quadratic, start, 1e3, 500)
    with pytest.raises(DivergenceError, match="time"):
        gradient_flow(lambda theta: -theta.square().square().sum(), start, 10.0)
