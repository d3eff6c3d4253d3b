"""Is it a minimum? The verdict for a converged, an early-stopped and a saddle-point model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support import Plain, cross_entropy, digits, seeded, softmax_regression
from wherefrom import Influence


def check(plain: Plain, **options):
    return (
        Influence(plain.model, (plain.x, plain.y), loss="cross_entropy", progress=False, **options)
        .fit()
        .minimum
    )


def test_a_converged_model_is_at_a_minimum():
    plain = softmax_regression(decay=0.02)
    found = check(plain, weight_decay=0.02)
    assert found.verdict == "minimum" and found.words.startswith("At a minimum")
    assert found.gradient_norm < 1e-10
    assert found.typical_gradient == pytest.approx(float(plain.gradients().square().sum(1).mean().sqrt()))
    assert found.smallest_curvature >= 0.02 * (1 - 1e-9)
    assert found.largest_curvature == pytest.approx(
        float(torch.linalg.eigvalsh(plain.hessian())[-1]), rel=0.02
    )
    assert found.as_dict()["verdict"] == "minimum"


def test_forgetting_the_weight_decay_shows():
    plain = softmax_regression(decay=0.02)
    found = check(plain)
    expected = float((0.02 * plain.theta).norm())
    assert found.gradient_norm == pytest.approx(expected)
    assert found.relative_gradient == pytest.approx(expected / found.typical_gradient)
    assert found.removals == pytest.approx(plain.n * found.relative_gradient)
    assert found.verdict != "minimum" and "removing one" in found.words


def test_an_early_stopped_model_is_near_and_an_untrained_one_is_not():
    plain = softmax_regression(decay=0.02)
    direction = torch.linalg.eigh(plain.hessian()).eigenvectors[:, -1]
    typical = float(plain.gradients().square().sum(1).mean().sqrt())
    largest = float(torch.linalg.eigvalsh(plain.hessian())[-1])
    for share, verdict in ((0.02, "near"), (0.3, "not a minimum")):
        moved = Plain(plain.model, cross_entropy, (plain.x, plain.y), 0.02)
        with torch.no_grad():
            theta = plain.theta + share * typical / largest * direction
            for name, value in plain.unflatten(theta).items():
                moved.model.get_parameter(name).copy_(value)
        found = check(moved, weight_decay=0.02)
        assert found.verdict == verdict
        assert found.relative_gradient == pytest.approx(share, rel=0.2)


def test_a_saddle_point_is_told_from_a_minimum():
    """With all weights at zero every gradient vanishes, the Hessian does not."""
    x, y = digits(40, classes=3, pool=2)
    model = seeded(
        lambda: nn.Sequential(nn.Linear(16, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False))
    )
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    plain = Plain(model, cross_entropy, (x, y))
    assert float(plain.gradients().mean(0).norm()) == 0.0
    assert float(torch.linalg.eigvalsh(plain.hessian())[0]) < -1e-3
    found = check(plain, curvature="hessian")
    assert found.verdict == "not a minimum" and "negative eigenvalue" in found.words
    assert found.gradient_norm == 0.0
