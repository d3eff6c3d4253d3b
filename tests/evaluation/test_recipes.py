"""The ready-made recipe reaches the optimum or says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support import Plain, as_a_user, cross_entropy, digits, seeded, small_mlp, softmax_regression
from wherefrom import FullBatch
from wherefrom.errors import ConvergenceError, InputError


def test_full_batch_finds_the_optimum_from_anywhere():
    plain = softmax_regression(60, classes=3, decay=0.03)
    start = seeded(lambda: nn.Linear(16, 3), seed=9).float()
    for warm in (True, False):
        recipe = FullBatch(
            start, loss="cross_entropy", weight_decay=0.03, warm_start=warm, gradient_tolerance=1e-9
        )
        found = recipe((plain.x, plain.y), 3)
        assert found is not start and next(found.parameters()).dtype == torch.float64
        theta = torch.cat([value.reshape(-1) for value in found.parameters()]).detach()
        torch.testing.assert_close(theta, plain.theta, rtol=0, atol=1e-6)
    assert next(start.parameters()).dtype == torch.float32


def test_full_batch_on_a_network_ends_where_the_gradient_vanishes():
    plain = small_mlp()
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)))
    recipe = FullBatch(
        model, loss="cross_entropy", weight_decay={"0": 0.01, "2.weight": 0.02}, warm_start=False
    )
    first, again, other = (recipe((plain.x, plain.y), seed) for seed in (1, 1, 2))
    decay = torch.cat([torch.full((85,), 0.01), torch.full((15,), 0.02), torch.zeros(3)]).double()
    found = Plain(first, cross_entropy, (plain.x, plain.y), decay)
    assert float((found.gradients().mean(0) + decay * found.theta).abs().max()) < 2e-7
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_full_batch_minimises_a_regulariser_of_any_form():
    x, y = digits(40, classes=3, pool=2)
    model = seeded(lambda: nn.Linear(16, 3))

    def quartic(named):
        return 0.1 * named["weight"].square().sum() + sum(value.pow(4).sum() for value in named.values())

    found = FullBatch(model, loss="cross_entropy", regulariser=quartic, gradient_tolerance=1e-9)((x, y), 0)
    total = nn.functional.cross_entropy(found(x), y) + quartic(dict(found.named_parameters()))
    gradients = torch.autograd.grad(total, list(found.parameters()))
    assert max(float(part.abs().max()) for part in gradients) < 1e-8
    as_decay = FullBatch(
        model, loss="cross_entropy", regulariser=lambda named: 0.1 * named["weight"].pow(2).sum()
    )
    by_name = FullBatch(model, loss="cross_entropy", weight_decay={"weight": 0.2})
    torch.testing.assert_close(as_decay((x, y), 0).weight, by_name((x, y), 0).weight, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="both weight_decay and regulariser"):
        FullBatch(model, loss="cross_entropy", weight_decay=0.1, regulariser=quartic)((x, y), 0)


def test_full_batch_feeds_the_model_as_it_is_told():
    x, y = digits(40, classes=3, pool=2)
    model = seeded(lambda: nn.Linear(16, 3))
    items = [{"picture": x[i], "digit": y[i]} for i in range(40)]
    told = FullBatch(
        model,
        loss="cross_entropy",
        weight_decay=0.1,
        forward=lambda net, batch: net(2 * batch["picture"]),
        target=lambda batch: batch["digit"],
        collate=lambda rows: {key: torch.stack([row[key] for row in rows]) for key in ("picture", "digit")},
    )
    plain = FullBatch(model, loss="cross_entropy", weight_decay=0.1)
    torch.testing.assert_close(told(items, 0).weight, plain((2 * x, y), 0).weight, rtol=0, atol=1e-6)


def test_full_batch_trains_only_the_named_parameters():
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)))
    found = FullBatch(model, loss="cross_entropy", weight_decay=0.1, parameters="2.*")(
        digits(40, classes=3, pool=2), 0
    )
    assert torch.equal(found[0].weight, model[0].weight)
    assert not torch.equal(found[2].weight, model[2].weight)


def test_full_batch_that_cannot_converge_raises():
    model = seeded(lambda: nn.Linear(16, 3))
    recipe = FullBatch(model, loss="cross_entropy", weight_decay=1e-6, max_iterations=3)
    with pytest.raises(ConvergenceError, match=r"largest gradient entry.*gradient_tolerance"):
        recipe(digits(40, classes=3, pool=2), 0)


def test_full_batch_refuses_dropout_and_bad_settings():
    model = nn.Sequential(nn.Linear(16, 3), nn.Dropout(0.5))
    with pytest.raises(InputError, match="dropout"):
        FullBatch(model, loss="cross_entropy")(digits(10, classes=3, pool=2), 0)
    for options in ({"gradient_tolerance": 0.0}, {"max_iterations": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            FullBatch(model, loss="cross_entropy", **options)


def test_full_batch_settings_are_json_and_tell_recipes_apart():
    import json

    model = nn.Linear(2, 2)
    with as_a_user():
        variants = [
            FullBatch(model, loss="cross_entropy", weight_decay=1),
            FullBatch(model, loss="cross_entropy", weight_decay={"weight": 1.0}),
            FullBatch(model, loss="squared_error", weight_decay=1.0),
            FullBatch(model, loss="cross_entropy", weight_decay=1.0, warm_start=False),
            FullBatch(model, loss="cross_entropy", regulariser=torch.sum),
            FullBatch(model, loss="cross_entropy", target=len),
        ]
    assert len({json.dumps(variant.settings()) for variant in variants}) == 6
