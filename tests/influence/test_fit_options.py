"""Options that would give wrong numbers, or be taken for something else, are refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.problems import labels, mlp, normal
from tests.support import as_a_user
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.influence import FitOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -3}, r"batch_size=-3: expected None .* or a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, r"batch_size=2\.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": "8"}, "batch_size='8'"),
        ({"hvp_mode": "reverse"}, "hvp_mode='reverse': expected one of 'auto', 'reverse_over_reverse', 'for"),
        ({"hvp_mode": None}, "hvp_mode=None"),
        ({"fisher_draws": 0}, "fisher_draws=0: expected a whole number of at least 1"),
        ({"fisher_draws": 1.0}, r"fisher_draws=1\.0"),
        ({"seed": 0.5}, r"seed=0\.5: expected a whole number"),
        ({"seed": None}, "seed=None"),
    ],
)
def test_options_that_are_no_such_integer_or_mode(options, message):
    with as_a_user():
        with pytest.raises(InputError, match=message):
            FitOptions(**options)
        with pytest.raises(InputError, match=message):
            Influence(mlp(), (normal(9, 4), labels(9)), loss="cross_entropy", **options)


def test_integers_of_numpy_become_plain_ones():
    with as_a_user():
        options = FitOptions(batch_size=np.int64(4), fisher_draws=np.int32(2), seed=np.int64(-1))
    assert json.dumps([options.batch_size, options.fisher_draws, options.seed]) == "[4, 2, -1]"


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_size_changes_no_score(batch_size):
    data = (normal(9, 4), labels(9))

    def scores(size: int | None) -> torch.Tensor:
        influence = Influence(
            mlp(), data, loss="cross_entropy", damping=0.1, batch_size=size, progress=False
        ).fit()
        return torch.as_tensor(influence.scores(data).values)

    torch.testing.assert_close(scores(batch_size), scores(None), rtol=1e-9, atol=1e-12)


def test_inner_products_of_gradients_ask_for_no_curvature():
    """Neither damping from its traces, nor a square root that a loss which is not convex does not have."""
    model, data = mlp(), (normal(9, 4), labels(9))

    def bounded(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1 - torch.exp(-((outputs.gather(1, targets[:, None])[:, 0] - 1) ** 2))

    influence = Influence(model, data, loss=bounded, solver="identity", progress=False).fit()
    assert influence.settings()["damping"] == 0.0
    assert influence.settings()["damping_per_block"] is None
    gradients = torch.stack(
        [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
                ]
            )
            for loss in bounded(model(data[0]), data[1])
        ]
    )
    torch.testing.assert_close(influence.scores(data).values, gradients @ gradients.T)
