"""What removals and relabellings are predicted to do, against actual retraining on a convex model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.labels.label_problem import ALPHA, Flipped, flipped_digits
from wherefrom.studies.labels import label_signals


def optimum(given: Flipped, weights: Tensor, other: Tensor | None = None, share: float = 0.0) -> nn.Module:
    """The minimum by Newton's method, example `i` counting `w_i` times and having `share` of its label moved
    from `y_i` to `other_i`."""
    n = len(given.y)
    x = torch.cat([given.x, torch.ones(n, 1, dtype=torch.float64)], dim=1)
    target = F.one_hot(given.y, 3).double()
    if other is not None:
        target = target + share * (F.one_hot(other, 3) - F.one_hot(given.y, 3))
    linear = given.model[0]
    theta = torch.cat([linear.weight, linear.bias[:, None]], dim=1).detach().clone()

    def objective(flat: Tensor) -> Tensor:
        logits = x @ flat.view_as(theta).T
        losses = -(target * logits.log_softmax(1)).sum(1)
        return (weights * losses).sum() / n + ALPHA / 2 * flat.square().sum()

    flat = theta.flatten()
    for _ in range(8):
        step = torch.linalg.solve(torch.func.hessian(objective)(flat), torch.func.grad(objective)(flat))
        flat = flat - step
    assert float(torch.func.grad(objective)(flat).abs().max()) < 1e-12
    model = nn.Linear(16, 3).double()
    with torch.no_grad():
        found = flat.view_as(theta)
        model.weight.copy_(found[:, :-1])
        model.bias.copy_(found[:, -1])
    return model


def mean_loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    return float(F.cross_entropy(model(data[0]), data[1]).detach())


def ones(given: Flipped) -> Tensor:
    return torch.ones(len(given.y), dtype=torch.float64)


def test_harm_is_the_derivative_of_the_validation_loss():
    """Down-weighting by `ε` lowers it by `ε` times the predicted fall, up to `ε²`."""
    given = flipped_digits()
    audit = label_signals(given.influence(), given.validation)
    start = mean_loss(optimum(given, ones(given)), given.validation)
    for i in (int(audit.order("harm")[0]), int(audit.order("harm")[-1])):
        for share, rtol in ((1e-2, 5e-3), (1e-3, 5e-4)):
            weights = ones(given)
            weights[i] -= share
            fall = (start - mean_loss(optimum(given, weights), given.validation)) / share
            predicted = float(audit.signals["harm"][i])
            assert abs(fall - predicted) < rtol * abs(predicted)


def test_relabel_influence_is_the_derivative_of_the_validation_loss():
    """A share `ε` of the label moved to another class changes it by `ε` times the prediction, up to `ε²`."""
    given = flipped_digits()
    audit = label_signals(given.influence(), given.validation)
    assert audit.relabel_change is not None
    start = mean_loss(optimum(given, ones(given)), given.validation)
    for i in (3, 11, int(given.wrong.nonzero()[0, 0])):
        assert float(audit.relabel_change[i, given.y[i]]) == 0.0
        for c in range(3):
            if c == int(given.y[i]):
                continue
            other = given.y.clone()
            other[i] = c
            for share, rtol in ((1e-2, 2e-2), (1e-3, 2e-3)):
                moved = optimum(given, ones(given), other, share)
                change = (mean_loss(moved, given.validation) - start) / share
                predicted = float(audit.relabel_change[i, c])
                assert abs(change - predicted) < rtol * abs(predicted)


def test_whole_relabellings_are_predicted_to_the_order_of_one_over_n():
    given = flipped_digits(n=120, wrong=12)
    audit = label_signals(given.influence(), given.validation)
    assert audit.relabel_change is not None
    start = mean_loss(optimum(given, ones(given)), given.validation)
    predicted, actual = [], []
    for i in given.wrong.nonzero()[:, 0].tolist():
        other = given.y.clone()
        other[i] = given.true[i]
        actual.append(mean_loss(optimum(given, ones(given), other, 1.0), given.validation) - start)
        predicted.append(float(audit.relabel_change[i, given.true[i]]))
    assert float(torch.corrcoef(torch.tensor([predicted, actual]))[0, 1]) > 0.97


def test_left_out_losses_are_those_of_retraining_without_the_example():
    given = flipped_digits()
    fitted = given.influence()
    exact = label_signals(fitted, left_out="exact").signals["left_out_loss"]
    cheap = label_signals(fitted).signals["left_out_loss"]
    plain = label_signals(fitted).signals["loss"]
    chosen = torch.cat([given.wrong.nonzero()[:, 0], torch.arange(0, 60, 6)]).unique()
    actual = []
    for i in chosen.tolist():
        weights = ones(given)
        weights[i] = 0.0
        model = optimum(given, weights)
        actual.append(F.cross_entropy(model(given.x[i : i + 1]), given.y[i : i + 1]).detach())
    truth = torch.stack(actual)
    rise = truth - plain[chosen]
    assert float((exact[chosen] - truth).norm() / rise.norm()) < 0.10
    assert float((cheap[chosen] - truth).norm() / rise.norm()) < 0.10


def test_newton_steps_without_an_example_are_better_than_first_order():
    """The leverage matters: dividing by what is left of the curvature beats the plain derivative."""
    given = flipped_digits(n=40, wrong=4)
    fitted = given.influence()
    audit = label_signals(fitted, left_out="exact")
    first = audit.signals["loss"] + audit.signals["self_influence"] / len(given.y)
    worst = int(audit.order("self_influence")[0])
    weights = ones(given)
    weights[worst] = 0.0
    model = optimum(given, weights)
    truth = mean_loss(model, (given.x[worst : worst + 1], given.y[worst : worst + 1]))
    error = abs(float(audit.signals["left_out_loss"][worst]) - truth)
    assert error < 0.5 * abs(float(first[worst]) - truth)
