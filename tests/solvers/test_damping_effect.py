"""Damping: none where the exact answer can be had, and what it does to scores where there is some."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wherefrom
from tests.support import digits
from wherefrom.solvers.damping_effect import damping_share, damping_words, undamped_distance


def _logistic(decay: float, *, bias: bool, n: int = 400, p: int = 20):
    """A binary logistic regression of condition number about 1/decay at its exact minimum (Newton, float64),
    and its dense curvature and gradients."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64) * torch.logspace(-3, 0.5, p).double()
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    y = (x[:, -3:].sum(1) + 2 * noise > 0).double()
    full = torch.cat([x, torch.ones(n, 1).double()], 1) if bias else x
    alpha = torch.full((full.shape[1],), decay, dtype=torch.float64)
    alpha[p:] = 0.0
    theta = _minimum(full, y, alpha, torch.ones(n).double())
    model = nn.Linear(p, 1, bias=bias).double()
    with torch.no_grad():
        model.weight.copy_(theta[None, :p])
        if bias:
            model.bias.copy_(theta[p:])
    chance = torch.sigmoid(full @ theta)
    rows = (chance - y)[:, None] * full
    hessian = full.T @ (full * (chance * (1 - chance))[:, None]) / n + torch.diag(alpha)
    declared = {"weight": decay, "bias": 0.0} if bias else decay
    return model, (x, y[:, None]), declared, rows, hessian, (full, y, alpha, theta)


def _minimum(x, y, alpha, weights):
    theta = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(60):
        chance = torch.sigmoid(x @ theta)
        gradient = x.T @ (weights * (chance - y)) / len(y) + alpha * theta
        hessian = x.T @ (x * (weights * chance * (1 - chance))[:, None]) / len(y) + torch.diag(alpha)
        theta = theta - torch.linalg.solve(hessian, gradient)
    return theta


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("decay", [1e-3, 1e-7])
def test_the_default_is_the_undamped_answer_of_a_convex_model(decay, bias, dtype):
    model, data, declared, rows, hessian, _ = _logistic(decay, bias=bias)
    data = tuple(part.to(dtype) for part in data)
    fitted = wherefrom.Influence(
        model.to(dtype), data, loss="binary_cross_entropy", weight_decay=declared, progress=False
    ).fit()
    assert fitted.settings()["damping"] == 0.0
    scores = fitted.scores(tuple(part[:5] for part in data))
    exact = rows[:5] @ torch.linalg.solve(hessian, rows.T)
    relative = (scores.values.double() - exact).norm() / exact.norm()
    assert relative < (1e-6 if dtype == torch.float64 else 1e-3)
    assert scores.damping_share == 0.0 and "damping" not in repr(scores)


def test_a_bias_without_decay_leaves_predictions_of_retraining_right():
    model, data, declared, _, _, (x, y, alpha, _) = _logistic(1e-2, bias=True)
    scores = (
        wherefrom.Influence(model, data, loss="binary_cross_entropy", weight_decay=declared, progress=False)
        .fit()
        .scores(tuple(part[:1] for part in data))
    )
    chosen = scores.values[0].abs().argsort(descending=True)[:8]

    def loss(weights):
        output = x[:1] @ _minimum(x, y, alpha, weights)
        return float(F.binary_cross_entropy_with_logits(output, y[:1]))

    whole = torch.ones(len(y), dtype=torch.float64)
    actual = torch.tensor(
        [loss(whole.clone().index_fill_(0, i, 0.0)) - loss(whole) for i in chosen], dtype=torch.float64
    )
    predicted = scores.predicted_change[0, chosen]
    assert float(torch.corrcoef(torch.stack([predicted, actual]))[0, 1]) > 0.999
    assert float((predicted @ actual) / (actual @ actual)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "solver", [wherefrom.Exact(space="dual"), wherefrom.CG(preconditioner=wherefrom.EKFAC())]
)
def test_a_token_damping_is_part_of_the_error(solver):
    model, data, declared, rows, hessian, _ = _logistic(1e-3, bias=True)
    fitted = wherefrom.Influence(
        model, data, loss="binary_cross_entropy", weight_decay=declared, solver=solver, progress=False
    ).fit()
    assert fitted.settings()["damping"] > 0
    scores = fitted.scores(tuple(part[:20] for part in data))
    error = (scores.values - rows[:20] @ torch.linalg.solve(hessian, rows.T)).abs()
    assert bool((error <= scores.bound).all())
    assert 0.2 < float((scores.error / error.clamp(min=1e-300)).median()) < 5
    own = fitted.self_scores()
    missed = (own.values - (rows * torch.linalg.solve(hessian, rows.T).T).sum(1)).abs()
    assert bool((missed <= own.bound).all())
    assert 0.2 < float((own.error / missed.clamp(min=1e-300)).median()) < 5


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_the_share_is_the_derivative_in_the_logarithm_of_the_damping(damping):
    x, y = digits(60, pool=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 10)).double()

    def scores(value):
        return (
            wherefrom.Influence(model, (x, y), loss="cross_entropy", damping=value, progress=False)
            .fit()
            .scores((x, y))
        )

    step = 1e-4
    moved = (scores(damping * (1 + step)).values - scores(damping * (1 - step)).values) / (2 * step)
    here = scores(damping)
    assert here.damping_share == pytest.approx(float(moved.norm() / here.values.norm()), rel=1e-4)
    assert "damping" in repr(here)


def test_the_share_of_a_damping_by_layers():
    generator = torch.Generator().manual_seed(0)
    inverse = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5
    gradients = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.1] * 3 + [0.7] * 3, dtype=torch.float64)
    x = gradients / (inverse + weights)[:, None]
    share = damping_share(gradients, x, weights)

    def gram(scale):
        return gradients.T @ (gradients / (inverse + scale * weights)[:, None])

    moved = (gram(1 + 1e-5) - gram(1 - 1e-5)) / 2e-5
    assert share == pytest.approx(float(moved.norm() / gram(1.0).norm()), rel=1e-6)


def test_without_damping_scores_are_further_off_than_to_first_order():
    # One dimension: C = 3, λ = 1: damped 1/4, undamped 1/3.
    share = damping_share(torch.ones(1, 1), torch.full((1, 1), 0.25), 1.0)
    assert share == pytest.approx(0.25) and undamped_distance(share) == pytest.approx(
        (1 / 3 - 1 / 4) / (1 / 4)
    )
    assert undamped_distance(0.99) == float("inf")


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (None, ""),
        (0.001, "damping 0.5 changes them by less than 2%"),
        (0.2, "without the damping 0.5 they would differ by about 25%"),
        (0.8, "decided by the damping 0.5: without it they would be others"),
    ],
)
def test_what_is_said_of_a_damping(share, words):
    assert damping_words(0.5, share) == words


def test_no_damping_is_not_spoken_of():
    assert damping_words(0.0, 0.0) == ""


def test_layerwise_solvers_say_what_their_damping_decides():
    x, y = digits(80, pool=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    known = wherefrom.Influence(model, (x, y), loss="cross_entropy", solver="ekfac", progress=False).fit()
    assert 0 < known.scores((x[:5], y[:5])).damping_share < 1
    blind = wherefrom.Influence(
        model, (x, y), loss="cross_entropy", solver=wherefrom.EKFAC(probes=0), progress=False
    ).fit()
    assert blind.scores((x[:5], y[:5])).damping_share is None
