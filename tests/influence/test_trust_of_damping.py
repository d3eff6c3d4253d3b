"""A damping that was asked for, or that a network needs, is said where it limits what scores mean."""

from __future__ import annotations

import pytest
import torch

import wherefrom
from tests.support import digits
from wherefrom.influence import trust_of


def _fitted(damping):
    x, y = digits(120, pool=2, classes=3)
    model = torch.nn.Linear(16, 3).double()
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        decay = sum(value.square().sum() for value in model.parameters())
        loss = torch.nn.functional.cross_entropy(model(x), y) + 0.005 * decay
        loss.backward()
        return loss

    optimiser.step(closure)
    return wherefrom.Influence(
        model, (x, y), loss="cross_entropy", weight_decay=0.01, damping=damping, progress=False
    ).fit()


def test_an_undamped_minimum_is_trusted():
    fitted = _fitted("auto")
    assert fitted.minimum.verdict == "minimum" and "damping" not in fitted.minimum.words
    trust = trust_of(fitted)
    assert trust.level == "good" and "damping" not in trust.words


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_a_damped_one_is_trusted_less_and_says_so(damping):
    fitted = _fitted(damping)
    assert fitted.minimum.verdict == "minimum"
    assert f"less curvature than the damping {damping:.3g} held back" in fitted.minimum.words
    trust = trust_of(fitted)
    assert trust.level == "fair" and f"a damping of {damping:.2g} holds back" in trust.words
