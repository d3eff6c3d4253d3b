"""The noise of training, by real retraining of small models: yes, no, and cannot tell."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from tests.support import Plain, cross_entropy, digits, softmax_regression
from wherefrom import Influence
from wherefrom.errors import ConvergenceError
from wherefrom.evaluation.noise import reliability, shares_a_shift, training_spread

DECAY = 0.05


@functools.lru_cache
def convex() -> Plain:
    return softmax_regression(60, classes=3, decay=DECAY)


def queries():
    return digits(5, start=300, classes=3, pool=2)


def convex_influence() -> Influence:
    plain = convex()
    return Influence(
        plain.model, (plain.x, plain.y), loss="cross_entropy", weight_decay=DECAY, progress=False
    ).fit()


def to_the_optimum(train, seed):
    return Plain(convex().model, cross_entropy, train, DECAY).trained().model


@functools.lru_cache
def network_data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(126, 6, generator=generator)
    y = ((x[:, 0] * x[:, 1] + x[:, 2] + 0.7 * torch.randn(126, generator=generator)) > 0).long()
    return (x[:120], y[:120]), (x[120:], y[120:])


def shuffled(train, seed, *, own_seed: int | None = None):
    """An ordinary recipe: a small network by stochastic gradient descent in random order."""
    x, y = train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if own_seed is None else own_seed)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            for rows in torch.randperm(len(x)).split(20):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    return model.eval()


def network_influence(recipe) -> Influence:
    train, _ = network_data()
    return Influence(
        recipe(train, 0), train, loss="cross_entropy", weight_decay=1e-2, solver="ekfac", progress=False
    ).fit()


def test_a_deterministic_recipe_of_a_convex_model_says_yes():
    check = convex_influence().verify(queries(), to_the_optimum, remove=6)
    assert check.judgement().verdict == "yes" and check.ceiling > 0.999
    assert float(check.seed_spread.max()) < 1e-9 and float(check.noise.max()) < 1e-9


def test_random_scores_of_a_convex_model_are_refuted():
    influence = convex_influence()
    scores = influence.scores(queries())
    mixed = scores.values[:, torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    check = influence.verify(
        queries(), to_the_optimum, remove=8, scores=dataclasses.replace(scores, values=mixed)
    )
    assert check.judgement().verdict == "no" and "do not rely on them" in check.words


@pytest.mark.parametrize("own_seed", [None, 0])
def test_one_seed_of_a_shuffled_recipe_cannot_tell(own_seed):
    """Also where the recipe shuffles by a seed of its own and gives the same model for every `seed`."""
    recipe = functools.partial(shuffled, own_seed=own_seed)
    train, asked = network_data()
    check = network_influence(recipe).verify(asked, recipe, remove=8)
    other = recipe((train[0].flip(0), train[1].flip(0)), 1)
    losses = [
        nn.functional.cross_entropy(model(asked[0]), asked[1], reduction="none").detach().double().numpy()
        for model in (recipe(train, 0), other)
    ]
    np.testing.assert_allclose(check.seed_spread, np.abs(losses[0] - losses[1]) / 2**0.5, rtol=1e-5)
    np.testing.assert_allclose(check.noise, np.broadcast_to(2**0.5 * check.seed_spread, (8, 6)))
    judgement = check.judgement()
    assert (judgement.verdict, judgement.answer, judgement.level) == ("cannot tell", "Cannot tell", "none")
    for said in ("noise of training", "more seeds", "recipe without chance", "larger groups"):
        assert said in judgement.words
    assert "do not rely" not in judgement.words
    assert check.summary()["verdict"] == "cannot tell" and check.summary()["seed_spread"] > 0


def test_a_full_run_that_went_elsewhere_shifts_every_removal():
    """The recipe returns the given model for all the data, and trains anew for less: no noise between seeds,
    and a shift that all removals share."""
    plain = convex()

    def lazy(train, seed):
        if len(train[0]) == plain.n:
            return plain.model
        weaker = Plain(plain.model, cross_entropy, train, 20 * DECAY).trained().model
        return weaker

    check = convex_influence().verify(queries(), lazy, remove=8)
    assert shares_a_shift(check.predicted, check.actual) and float(check.noise.max()) == 0
    judgement = check.judgement()
    assert judgement.verdict in ("cannot tell", "ranking only")
    assert "shifts a query by about the same amount" in judgement.words


def test_a_noise_that_could_not_be_measured_is_not_zero():
    """Every removal is then within the noise, unless the agreement itself is beyond chance."""

    def once(train, seed):
        if seed:
            raise ConvergenceError("not with this seed")
        return to_the_optimum(train, seed)

    influence = convex_influence()
    check = influence.verify(queries(), once, remove=8)
    assert np.isnan(check.seed_spread).all() and np.isnan(check.noise).all() and check.ceiling == 0
    assert check.judgement().verdict == "ranking only"
    scores = influence.scores(queries())
    mixed = scores.values[:, torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    check = influence.verify(queries(), once, remove=8, scores=dataclasses.replace(scores, values=mixed))
    assert check.judgement().verdict == "cannot tell" and "did not converge" in check.words


def test_reliability_of_made_up_changes():
    generator = np.random.default_rng(0)
    effects = generator.normal(size=(20, 8))
    small, large = 1e-4 * np.ones_like(effects), 10 * np.ones_like(effects)
    assert reliability(effects, 0 * small, None) == 1
    assert reliability(effects, small, None) > 0.999 and reliability(effects, large, None) == 0
    noise = generator.normal(size=(3, 20, 8))
    agreeing, apart = effects + 0.1 * noise, noise
    for by_seed, expected in ((agreeing, 0.99), (apart, 0.0)):
        error = by_seed.std(0, ddof=1) / 3**0.5
        assert reliability(by_seed.mean(0), error, by_seed) == pytest.approx(expected, abs=0.011)
    # Seeds that the recipe does not use are one training.
    same = np.repeat(effects[None], 3, 0)
    assert reliability(effects, large, same) == 0
    assert training_spread([effects[0], effects[0]], None).max() == 0
    spread = training_spread([effects[0], effects[0]], effects[1])
    np.testing.assert_allclose(spread, np.abs(effects[0] - effects[1]) / 2**0.5)
