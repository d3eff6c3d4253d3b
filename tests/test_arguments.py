"""Numbers that are none, or not whole, or out of range: each argument refuses them by its name."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import wherefrom
from tests.problems import labels, normal
from tests.support import as_a_user
from wherefrom.arguments import choice, number, seeds_of, whole
from wherefrom.errors import InputError, StoreError

NO_WHOLE = (2.5, True, "2", None, float("nan"), np.float64(2.0), [2], torch.tensor(2.0))
NO_NUMBER = (True, "2", None, float("nan"), float("inf"), [2.0])
NO_SEEDS = (0, "01", [], [0, 0], [0, 1.5], [True], [0, "1"], [np.int64(3), 3])


@given(st.integers(), st.integers(), st.integers())
def test_whole_numbers_within_their_limits(value, least, width):
    most = least + abs(width)
    if least <= value <= most:
        assert whole("k", value, least, most) == value
    else:
        with pytest.raises(InputError, match=re.escape(f"k={value}: expected a whole number from {least}")):
            whole("k", value, least, most)


@given(st.floats() | st.integers() | st.fractions())
def test_finite_numbers_above_a_limit(value):
    good = math.isfinite(value) and value > 0
    if good:
        assert number("x", value, above=0) == float(value)
    else:
        with pytest.raises(InputError, match="expected a finite number above 0"):
            number("x", value, above=0)


def test_the_limits_themselves():
    assert number("x", Fraction(1, 2), least=0.5, most=0.5) == 0.5
    for limits in ({"above": 1}, {"below": 1}, {"least": 1.5}, {"most": 0.5}):
        with pytest.raises(InputError, match="x=1: expected a finite number"):
            number("x", 1, **limits)
    assert whole("k", np.int32(3)) == 3 and type(whole("k", np.int32(3))) is int
    assert seeds_of(np.arange(3)) == seeds_of(range(3)) == (0, 1, 2)
    assert choice("c", "a", ("a", "b")) == "a"
    with pytest.raises(InputError, match="c=3: expected one of 'a', 'b'"), as_a_user():
        choice("c", 3, ("a", "b"))
    with pytest.raises(InputError, match=r"k='x+…"):
        whole("k", "x" * 500)


@pytest.fixture(scope="module")
def parts():
    """A fitted influence function, its queries, scores of them, and what follows from it."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    train, queries = (normal(24, 4), labels(24)), (normal(5, 4, seed=3), labels(5, seed=4))
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    influence = wherefrom.Influence(
        model, train, loss="cross_entropy", weight_decay=0.1, progress=False
    ).fit()
    return (
        influence,
        queries,
        influence.scores(queries),
        wherefrom.FullBatch(model, loss="cross_entropy", weight_decay=0.1),
    )


def influence_with(**options):
    return wherefrom.Influence(
        nn.Linear(4, 3).double(), (normal(9, 4), labels(9)), loss="cross_entropy", progress=False, **options
    ).fit()


# Argument, what is no value of it, and a call that is given one.
METHODS = [
    ("remove", (*NO_WHOLE, 0, -1), lambda i, q, s, r, v: i.verify(q, r, remove=v)),
    ("seeds", NO_SEEDS, lambda i, q, s, r, v: i.verify(q, r, seeds=v)),
    ("refine", (*NO_WHOLE, -1), lambda i, q, s, r, v: i.scores(q, refine=v)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: s.helpful(v)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: s.harmful(v)),
    ("query", (2.5, True, "2", -1, 5), lambda i, q, s, r, v: s.helpful(2, query=v)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.self_scores().top(v)),
    ("max_size", (2.5, True, "2", 0, 24), lambda i, q, s, r, v: i.flip(q, max_size=v)),
    ("rivals", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.flip(q, rivals=v)),
    ("retrainings", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.flip(q).confirm(r, retrainings=v)),
    ("seed", NO_WHOLE, lambda i, q, s, r, v: i.flip(q).confirm(r, seed=v)),
    ("shares", ([0.0], [True], ["a"], [math.nan], [1.5], []), lambda i, q, s, r, v: i.flip(q).robustness(v)),
    ("times", (*NO_NUMBER, -1), lambda i, q, s, r, v: i.upweight([1], v)),
    ("seeds", NO_SEEDS, lambda i, q, s, r, v: i.remove([1]).retrain(r, q, seeds=v)),
    ("seeds", NO_SEEDS, lambda i, q, s, r, v: i.removal_curve([1, 2], [1], q, r, seeds=v)),
    ("sizes", ([2.5], [True], [0], [3], []), lambda i, q, s, r, v: i.removal_curve([1, 2], v, q)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.labels(q).top(v)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.labels(q).table(v)),
    ("k", (2.5, True, "2", 0, 25), lambda i, q, s, r, v: i.labels(q).agreement(v)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.relabel_scores(q).largest(0, v)),
    ("query", (*NO_WHOLE, -1, 5), lambda i, q, s, r, v: i.relabel_scores(q).largest(v)),
    ("clusters", (2.5, True, "2", 1, 25), lambda i, q, s, r, v: i.harmful_groups(q, clusters=v)),
    ("seed", [v for v in NO_WHOLE if v is not None], lambda i, q, s, r, v: i.harmful_groups(q, seed=v)),
    ("k", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.slices(q, [0] * 24).harmful(k=v)),
    ("top", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.report("page.html", q, s, top=v)),
    ("top", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.spectrum(top=v)),
    ("steps", (*NO_WHOLE, 1), lambda i, q, s, r, v: i.spectrum(steps=v)),
    ("starts", (*NO_WHOLE, 1), lambda i, q, s, r, v: i.spectrum(starts=v)),
    ("learning_rate", (True, "2", math.nan, 0), lambda i, q, s, r, v: i.spectrum(learning_rate=v)),
    ("probes", (2.5, True, "2", 0), lambda i, q, s, r, v: i.geometric_complexity(probes=v)),
    ("iterations", (*NO_WHOLE, 1), lambda i, q, s, r, v: i.gradient_bounds(iterations=v)),
    ("batch_size", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.input_influence(q, batch_size=v)),
    ("edits", (*NO_WHOLE, 0, 25), lambda i, q, s, r, v: i.attack(q, budget=1.0, edits=v)),
    ("steps", (*NO_WHOLE, 0), lambda i, q, s, r, v: i.attack(q, budget=1.0, steps=v)),
    ("refit_every", (*NO_WHOLE, -1), lambda i, q, s, r, v: i.attack(q, budget=1.0, refit_every=v)),
    ("step_size", (True, "2", math.nan, 0), lambda i, q, s, r, v: i.attack(q, budget=1.0, step_size=v)),
    ("seeds", NO_SEEDS, lambda i, q, s, r, v: i.attack(q, budget=1.0, recipe=r, seeds=v)),
    ("radius", NO_NUMBER, lambda i, q, s, r, v: wherefrom.Budget(v)),
    ("edits", (1, "1", [0], [1.5], [True], []), lambda i, q, s, r, v: i.poisoning(q, budget=1.0, edits=v)),
    ("keep", (*NO_WHOLE, -1), lambda i, q, s, r, v: i.poisoning(q, budget=1.0, keep=v)),
]
MADE = [
    ("batch_size", (2.5, True, "2", 0), lambda v: influence_with(batch_size=v)),
    ("fisher_draws", (*NO_WHOLE, 0), lambda v: influence_with(fisher_draws=v)),
    ("seed", NO_WHOLE, lambda v: influence_with(seed=v)),
    ("memory", (True, 0, -1, math.nan, math.inf, "much", None, [1]), lambda v: influence_with(memory=v)),
    ("damping", (True, -1, math.nan, math.inf, "none", None, [1]), lambda v: influence_with(damping=v)),
    ("weight_decay", (True, -1, math.nan, math.inf, "none", None), lambda v: influence_with(weight_decay=v)),
    ("rtol", (*NO_NUMBER, 0, 1), lambda v: wherefrom.CG(rtol=v)),
    ("max_iterations", (*NO_WHOLE, 0), lambda v: wherefrom.CG(max_iterations=v)),
    ("block", (*NO_WHOLE, 0), lambda v: wherefrom.CG(block=v)),
    ("score_rtol", (*NO_NUMBER, 0, 1), lambda v: wherefrom.CG(score_rtol=v)),
    ("top_k", (*NO_WHOLE, 0), lambda v: wherefrom.CG(top_k=v)),
    ("scale", (True, "2", 0, math.nan, math.inf), lambda v: wherefrom.LiSSA(scale=v)),
    ("depth", (2.5, True, "2", 0), lambda v: wherefrom.LiSSA(depth=v)),
    ("repeats", (*NO_WHOLE, 0), lambda v: wherefrom.LiSSA(repeats=v)),
    ("batch_size", (*NO_WHOLE, 0), lambda v: wherefrom.LiSSA(batch_size=v)),
    ("max_depth", (*NO_WHOLE, 0), lambda v: wherefrom.LiSSA(max_depth=v)),
    ("bias", (*NO_NUMBER, 0, 1), lambda v: wherefrom.LiSSA(bias=v)),
    ("batch_size", (*NO_WHOLE, 0), lambda v: wherefrom.Astra(wherefrom.EKFAC(), batch_size=v)),
    ("steps", (2.5, True, "2", 0), lambda v: wherefrom.Astra(wherefrom.EKFAC(), steps=v)),
    ("repeats", (*NO_WHOLE, 0), lambda v: wherefrom.Astra(wherefrom.EKFAC(), repeats=v)),
    ("anchors", (*NO_WHOLE, -1), lambda v: wherefrom.Astra(wherefrom.EKFAC(), anchors=v)),
    ("step_size", (True, "2", 0, math.nan), lambda v: wherefrom.Astra(wherefrom.EKFAC(), step_size=v)),
    ("rank", (*NO_WHOLE, 0), lambda v: wherefrom.Nystrom(rank=v)),
    ("max_rank", (*NO_WHOLE, 0), lambda v: wherefrom.Nystrom(max_rank=v)),
    ("discarded", (*NO_NUMBER, 0, 1), lambda v: wherefrom.Arnoldi(discarded=v)),
    ("block", (*NO_WHOLE, 0), lambda v: wherefrom.Arnoldi(block=v)),
    ("max_size", (*NO_WHOLE, 0), lambda v: wherefrom.BlockDiagonal(v)),
    ("score_rtol", (*NO_NUMBER, 1), lambda v: wherefrom.EKFAC(score_rtol=v)),
    ("probes", (*NO_WHOLE, -1), lambda v: wherefrom.KFAC(probes=v)),
    ("draws", (*NO_WHOLE, 0), lambda v: wherefrom.EKFAC(draws=v)),
    ("k", (*NO_WHOLE, 0), lambda v: wherefrom.Rademacher(v)),
    ("seed", NO_WHOLE, lambda v: wherefrom.Gaussian(8, seed=v)),
    ("RelativeDamping", (*NO_NUMBER, 0), lambda v: wherefrom.RelativeDamping(v)),
    ("scale", (*NO_NUMBER, 0), lambda v: wherefrom.SquaredError(scale=v)),
    ("t", (*NO_NUMBER, -1), lambda v: wherefrom.SmoothHinge(v)),
    ("smoothing", (*NO_NUMBER, -1), lambda v: wherefrom.FeatureDistance(v)),
    ("label_smoothing", (*NO_NUMBER, -1, 1.5), lambda v: wherefrom.CrossEntropy(label_smoothing=v)),
    ("ignore_index", (2.5, True, "2"), lambda v: wherefrom.CrossEntropy(ignore_index=v)),
    ("gradient_tolerance", (*NO_NUMBER, 0), lambda v: recipe_with(gradient_tolerance=v)),
    ("max_iterations", (*NO_WHOLE, 0), lambda v: recipe_with(max_iterations=v)),
    ("divide_by", (True, "2", 0, math.nan), lambda v: recipe_with(divide_by=v)),
]


def recipe_with(**options):
    return wherefrom.FullBatch(nn.Linear(2, 1), loss="squared_error", **options)


def refused(name, values, call):
    with as_a_user():
        for value in values:
            with pytest.raises(InputError) as caught:
                call(value)
                pytest.fail(f"{name}={value!r} was taken")
            assert name in str(caught.value), f"{name}={value!r}: {caught.value}"
            assert not isinstance(caught.value, StoreError)


@pytest.mark.parametrize("at", range(len(METHODS)), ids=lambda at: f"{at}-{METHODS[at][0]}")
def test_methods_refuse_what_is_no_value_of_an_argument(parts, at):
    name, values, call = METHODS[at]
    refused(name, values, lambda value: call(*parts, value))


@pytest.mark.parametrize("at", range(len(MADE)), ids=lambda at: f"{at}-{MADE[at][0]}")
def test_settings_refuse_what_is_no_value_of_an_argument(at):
    refused(*MADE[at])
