"""What the scores mean, checked by training again: signs, scales, proximal Bregman response."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support import Plain, cross_entropy, digits, half_square, seeded, small_mlp, softmax_regression
from wherefrom import Exact, Influence

ALPHA = 0.05


@functools.lru_cache
def convex() -> Plain:
    return softmax_regression(80, classes=3, decay=ALPHA)


def queries(count: int = 6) -> tuple[Tensor, Tensor]:
    return digits(count, start=300, classes=3, pool=2)


def fit(plain: Plain, **options) -> Influence:
    options = {"loss": "cross_entropy", "weight_decay": float(plain.decay[0]), **options}
    return Influence(plain.model, (plain.x, plain.y), progress=False, **options).fit()


def test_removing_helpful_examples_raises_the_loss_and_removing_harmful_ones_lowers_it():
    plain = convex()
    scores = fit(plain).scores(queries())
    before = plain.losses(plain.theta, queries())
    for q in range(2):
        for ranking, sign in ((scores.helpful(2, query=q), 1), (scores.harmful(2, query=q), -1)):
            for row in ranking:
                theta = plain.minimise(plain.without(row["train"]))
                change = float((plain.losses(theta, queries()) - before)[q])
                assert sign * change > 0
                assert row["predicted_change"] == pytest.approx(change, rel=0.15)


def test_the_upweighting_derivative_is_minus_the_score():
    """Central differences of retrained losses in the weight `ε` of one example."""
    plain = convex()
    scores = fit(plain, damping=0.0).scores(queries()).values
    epsilon = 1e-4
    for i in (3, 40):
        ends = []
        for sign in (1, -1):
            weights = torch.full((plain.n,), 1 / plain.n, dtype=torch.float64)
            weights[i] += sign * epsilon
            ends.append(plain.losses(plain.minimise(weights), queries()))
        torch.testing.assert_close(-scores[:, i], (ends[0] - ends[1]) / (2 * epsilon), rtol=1e-5, atol=1e-8)


def test_parameters_move_as_predicted():
    plain = convex()
    influence = fit(plain, damping=0.0)
    rows = influence.parameter_influence([7, 3])
    assert rows.shape == (2, plain.p)
    weights = torch.full((plain.n,), 1 / plain.n, dtype=torch.float64)
    epsilon = 1e-5
    weights[7] += epsilon
    moved = (plain.minimise(weights) - plain.theta) / epsilon
    torch.testing.assert_close(rows[0], moved, rtol=0, atol=1e-3 * float(moved.norm()))


def test_parameters_take_indices_of_any_kind_and_examples_of_any_form():
    plain = convex()
    influence = fit(plain)
    rows = influence.parameter_influence([7, 3])
    for same in (
        torch.tensor([7, 3]),
        np.array([7, 3]),
        [np.int64(7), np.int64(3)],
        (plain.x[[7, 3]], plain.y[[7, 3]]),
    ):
        torch.testing.assert_close(influence.parameter_influence(same), rows)
    torch.testing.assert_close(influence.parameter_influence(7), rows[:1])
    torch.testing.assert_close(influence.parameter_influence(np.int64(3)), rows[1:])


def test_leave_one_out_of_ridge_regression_with_the_leverage():
    """Sherman–Morrison: the exact change of `θ̂` is the predicted one divided by `1 − h_i`."""
    x, labels = digits(50, classes=10, pool=2)
    y = labels.double()[:, None]
    plain = Plain(seeded(lambda: nn.Linear(16, 1, bias=False)), half_square, (x, y), ALPHA).trained()
    hessian = x.T @ x / 50 + ALPHA * torch.eye(16, dtype=torch.float64)
    leverage = (x * torch.linalg.solve(hessian, x.T).T).sum(1) / 50
    influence = fit(plain, loss="squared_error", damping=0.0)
    linear = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query = (linear[None], torch.zeros(1, 1, dtype=torch.float64))
    scores = influence.scores(query, lambda outputs, targets: outputs[:, 0]).values[0]
    for i in range(0, 50, 7):
        kept = torch.arange(50) != i
        exact = torch.linalg.solve(
            x[kept].T @ x[kept] / 50 + ALPHA * torch.eye(16, dtype=torch.float64), x[kept].T @ y[kept] / 50
        )[:, 0]
        change = float(linear @ (exact - plain.theta))
        assert float(scores[i]) / 50 / (1 - float(leverage[i])) == pytest.approx(change, rel=1e-8)


def test_self_influence_is_the_diagonal_and_never_negative():
    for plain in (convex(), small_mlp()):
        influence = fit(plain, solver=Exact())
        own = influence.self_scores()
        full = influence.scores((plain.x, plain.y))
        torch.testing.assert_close(own.values, full.values.diagonal(), rtol=1e-9, atol=1e-12)
        assert bool((own.values >= 0).all())
        assert bool(((own.values - full.values.diagonal()).abs() <= own.bound + full.bound.diagonal()).all())
        some = influence.self_scores([5, 2])
        assert some.index.tolist() == [5, 2]
        torch.testing.assert_close(some.values, own.values[[5, 2]])
        best = own.top(3)
        assert [value for _, value in best] == sorted((float(v) for v in own.values), reverse=True)[:3]
        assert float(own.values[best[0][0]]) == best[0][1]


def test_the_gauss_newton_influence_is_the_linear_response_of_the_proximal_bregman_objective():
    """Bae et al. 2022: `argmin mean D_ℓ(f(θ), f(θ̂)) + ε ℓ(z, θ) + λ/2 ‖θ − θ̂‖²` moves by `−ε G_λ⁻¹ g`."""
    x, y = digits(30, classes=3, pool=2)
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 3)))  # not trained at all
    plain = Plain(model, cross_entropy, (x, y))
    damping, epsilon, i = 0.1, 1e-5, 4
    outputs = plain.outputs(plain.theta)
    slopes = torch.softmax(outputs, 1) - nn.functional.one_hot(y, 3)
    base = plain.losses(plain.theta)

    def response(sign: int) -> Tensor:
        class Proximal(Plain):
            def objective(self, theta, weights=None):
                moved = self.outputs(theta)
                losses = cross_entropy(moved, y)
                bregman = (losses - base - (slopes * (moved - outputs)).sum(1)).mean()
                return (
                    bregman
                    + sign * epsilon * losses[i]
                    + 0.5 * damping * (theta - plain.theta).square().sum()
                )

        return Proximal(model, cross_entropy, (x, y)).minimise(newton=4)

    derivative = (response(1) - response(-1)) / (2 * epsilon)
    influence = fit(plain, curvature="ggn", damping=damping, weight_decay=0.0)
    torch.testing.assert_close(
        influence.parameter_influence([i])[0], derivative, rtol=0, atol=1e-5 * float(derivative.norm())
    )
