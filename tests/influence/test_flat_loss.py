"""A loss without curvature is refused, whatever its name; a smooth one and solvers that need none are not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wherefrom
from wherefrom.errors import UnsupportedError
from wherefrom.losses import SmoothHinge


def _data(signs: bool = False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    y = x[:, :1] + torch.randn(60, 1, generator=generator, dtype=torch.float64)
    return (x, y.sign() if signs else y), nn.Linear(4, 1).double()


def pinball(outputs, targets):
    gap = (targets - outputs).squeeze(1)
    return torch.maximum(0.9 * gap, -0.1 * gap)


def absolute(outputs, targets):
    return (outputs - targets).abs().sum(1)


def hinge(outputs, targets):
    return torch.relu(1 - outputs * targets).squeeze(1)


def linear(outputs, targets):
    return (outputs * targets).squeeze(1)


@pytest.mark.parametrize("loss", [pinball, absolute, hinge, linear, SmoothHinge(0.0)])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 1e-2}, {"damping": 0.1, "solver": "cg"}, {"damping": 1.0, "solver": "ekfac"}],
)
def test_a_flat_loss_is_refused(loss, options):
    data, model = _data(signs=True)
    with pytest.raises(UnsupportedError, match=r"has no curvature.*smooth version.*solver='identity'"):
        wherefrom.Influence(model, data, loss=loss, progress=False, **options).fit()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_network_and_its_hessian_are_refused_too(hidden):
    data, model = _data()
    if hidden:
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    with pytest.raises(UnsupportedError, match="no curvature"):
        wherefrom.Influence(
            model, data, loss=absolute, curvature="hessian", damping=1.0, progress=False
        ).fit()


@pytest.mark.parametrize("loss", [pinball, absolute])
def test_the_identity_compares_gradients_of_a_flat_loss(loss):
    data, model = _data()
    scores = wherefrom.Influence(model, data, loss=loss, solver="identity", progress=False).fit().scores(data)
    rows = torch.stack(
        [
            torch.cat(
                [
                    g.reshape(-1)
                    for g in torch.autograd.grad(loss(model(x[None]), y[None])[0], [*model.parameters()])
                ]
            )
            for x, y in zip(*data)
        ]
    )
    torch.testing.assert_close(scores.values, rows @ rows.T)


def test_an_empirical_fisher_needs_no_second_derivative():
    data, model = _data()
    fitted = wherefrom.Influence(
        model, data, loss=absolute, curvature="empirical_fisher", damping=0.1, progress=False
    ).fit()
    assert bool(torch.isfinite(fitted.scores(data).values).all())


def huber(outputs, targets):
    return F.huber_loss(outputs, targets, reduction="none", delta=0.3).sum(1)


@pytest.mark.parametrize("loss", [huber, SmoothHinge(0.05), "squared_error"])
def test_losses_with_curvature_at_a_few_examples_are_taken(loss):
    data, model = _data(signs=isinstance(loss, SmoothHinge))
    wherefrom.Influence(model, data, loss=loss, damping=0.1, progress=False).fit()


def test_a_model_that_fits_exactly_is_not_called_flat():
    data, model = _data()
    with torch.no_grad():
        exact = (data[0], model(data[0]))
    wherefrom.Influence(model, exact, loss=absolute, damping=0.1, solver="cg", progress=False).fit()
