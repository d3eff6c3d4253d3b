"""Verification by retraining on models whose optimum is unique, and every way a recipe can go wrong."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.support import Plain, as_a_user, class_margin, cross_entropy, digits, seeded, softmax_regression
from wherefrom import FullBatch, Influence, Measurement
from wherefrom.errors import ConvergenceError, InputError, NonFiniteError, StoreError

DECAY = 0.05
N = 60


@functools.lru_cache
def plain() -> Plain:
    return softmax_regression(N, classes=3, decay=DECAY)


def queries():
    return digits(5, start=300, classes=3, pool=2)


def influence(train=None, **options) -> Influence:
    data = (plain().x, plain().y) if train is None else train
    options = {"loss": "cross_entropy", "weight_decay": DECAY, **options}
    return Influence(plain().model, data, progress=False, **options).fit()


class Newton:
    """Trains to the optimum of the mean, or, with `keep_weights`, of `1/n` times the sum."""

    def __init__(self, keep_weights: bool = False):
        self.keep_weights = keep_weights
        self.calls: list[tuple[int, int]] = []

    def settings(self):
        return {"keep_weights": self.keep_weights}

    def __call__(self, train, seed):
        x, y = train
        self.calls.append((len(x), seed))
        decay = DECAY * N / len(x) if self.keep_weights else DECAY
        return Plain(plain().model, cross_entropy, (x, y), decay).trained().model


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_prediction_and_retraining_agree_for_either_reduction(reduction):
    made = influence().verify(queries(), Newton(reduction == "sum"), remove=12, reduction=reduction)
    assert made.predicted.shape == made.actual.shape == (12, 5)
    assert made.pearson() > 0.999 and made.spearman() > 0.95
    assert made.slope() == pytest.approx(1, abs=0.1)
    assert made.baseline_gap < 1e-8 and not made.failed and float(np.abs(made.noise).max()) < 1e-9
    assert "confirms the scores, in order and in size" in made.words


def test_the_wrong_reduction_shows():
    """A mean over the examples left moves every parameter a little more: predictions must know."""
    right = influence().verify(queries(), Newton(), remove=12, reduction="mean")
    wrong = influence().verify(queries(), Newton(), remove=12, reduction="sum")
    error = {
        "right": np.abs(right.predicted - right.actual).mean(),
        "wrong": np.abs(wrong.predicted - wrong.actual).mean(),
    }
    assert error["right"] < error["wrong"] / 2


def test_the_largest_effects_are_taken_from_the_queries_in_turn():
    fitted = influence()
    made = fitted.verify(queries(), Newton(), remove=5)
    values = fitted.scores(queries()).values
    effect = (values - values.mean(1, keepdim=True)).abs()
    assert int(made.removed[0]) == int(effect[0].argmax())
    assert len(set(made.removed.tolist())) == 5


def test_full_batch_is_a_recipe():
    recipe = FullBatch(plain().model, loss="cross_entropy", weight_decay=DECAY, gradient_tolerance=1e-8)
    made = influence().verify(queries(), recipe, remove=6)
    assert made.pearson() > 0.999 and made.baseline_gap < 1e-6
    cold = FullBatch(plain().model, loss="cross_entropy", weight_decay=DECAY, warm_start=False)
    again = influence().verify(queries(), cold, remove=3, seeds=(0, 1))
    assert again.pearson() > 0.999 and float(again.noise.max()) < 1e-5


def test_a_float32_model_is_measured_in_the_precision_of_its_recipe():
    """Effects of single examples lie below the rounding of float32 losses here."""
    model = nn.Linear(16, 3)
    model.load_state_dict(plain().model.state_dict())
    data = (plain().x.float(), plain().y)
    small = Influence(model, data, loss="cross_entropy", weight_decay=DECAY, progress=False).fit()
    x, y = queries()
    made = small.verify((x.float(), y), Newton(), remove=6)
    assert made.pearson() > 0.999


def test_other_measurements_and_given_scores():
    fitted = influence()
    margin = fitted.verify(queries(), Newton(), remove=6, measurement="margin")
    assert margin.measurement == "margin" and margin.pearson() > 0.99
    mine = Measurement("my margin", class_margin, True)
    given = fitted.verify(
        queries(), Newton(), remove=6, measurement=mine, scores=fitted.scores(queries(), mine)
    )
    np.testing.assert_allclose(given.actual, margin.actual, rtol=1e-6, atol=1e-12)
    with pytest.raises(InputError, match=r"'my margin'.*'logit'.*same measurement"):
        fitted.verify(queries(), Newton(), scores=fitted.scores(queries(), mine))
    with pytest.raises(InputError, match=r"'my margin'.*'loss'.*same measurement"):
        fitted.verify(queries(), Newton(), measurement="loss", scores=fitted.scores(queries(), mine))
    with pytest.raises(InputError, match="scores has 5 queries but 2"):
        fitted.verify((queries()[0][:2], queries()[1][:2]), Newton(), scores=fitted.scores(queries()))


@pytest.mark.parametrize("name", ["loss", "margin", "logit"])
def test_the_measurement_is_that_of_the_scores(name):
    fitted = influence()
    made = fitted.verify(queries(), Newton(), remove=4, scores=fitted.scores(queries(), name))
    asked = fitted.verify(queries(), Newton(), remove=4, measurement=name)
    assert made.measurement == name
    np.testing.assert_allclose(made.predicted, asked.predicted)
    np.testing.assert_allclose(made.actual, asked.actual)


def test_scores_of_another_function_of_the_same_name_are_not_taken():
    fitted = influence()
    first, second = (lambda outputs, targets, k=k: outputs[:, k] for k in (0, 1))
    made = fitted.verify(
        queries(), Newton(), remove=4, measurement=second, scores=fitted.scores(queries(), first)
    )
    asked = fitted.verify(queries(), Newton(), remove=4, measurement=second)
    np.testing.assert_allclose(made.predicted, asked.predicted)
    np.testing.assert_array_equal(made.removed, asked.removed)


def test_a_run_directory_of_another_measurement_of_the_same_name_is_refused(tmp_path):
    first, second = (lambda outputs, targets, k=k: outputs[:, k] for k in (0, 1))
    for _ in range(2):
        influence(run_dir=tmp_path).verify(queries(), Newton(), remove=1, measurement=first)
    with pytest.raises(StoreError, match="measurement differs"):
        influence(run_dir=tmp_path).verify(queries(), Newton(), remove=1, measurement=second)


def test_a_run_directory_of_a_recipe_that_closes_over_something_else_is_refused(tmp_path):
    def make(rate):
        def recipe(train, seed):
            model = Newton()(train, seed)
            with torch.no_grad():
                model.bias[0] += rate
            return model

        return recipe

    for _ in range(2):
        influence(run_dir=tmp_path).verify(queries(), make(0.0), remove=1)
    with pytest.raises(StoreError, match="recipe differs"):
        influence(run_dir=tmp_path).verify(queries(), make(0.1), remove=1)


@pytest.mark.parametrize("recipe", [None, "train.py"])
def test_a_recipe_that_is_no_function_is_refused(recipe):
    with as_a_user(), pytest.raises(InputError, match=r"recipe=.*recipe\(train, seed\)"):
        influence().verify(queries(), recipe)


def test_a_single_training_example_cannot_be_left_out():
    alone = influence((plain().x[:1], plain().y[:1]))
    with pytest.raises(InputError, match="1 example: without it nothing is left"):
        alone.verify(queries(), Newton())


def test_a_data_set_reaches_the_recipe_as_a_data_set():
    train = TensorDataset(plain().x, plain().y)
    recipe = Newton()
    seen = []

    def from_dataset(data, seed):
        seen.append(type(data).__name__)
        rows = [data[i] for i in range(len(data))]
        return recipe((torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])), seed)

    made = influence(train).verify(queries(), from_dataset, remove=2)
    assert seen == ["TensorDataset"] * 4
    assert [n for n, _ in recipe.calls] == [N, N - 1, N - 1, N]
    assert np.isfinite(made.actual).all()


def test_a_retraining_that_does_not_converge_is_left_out_and_reported():
    recipe = Newton()

    def sometimes(train, seed):
        if len(recipe.calls) == 2:
            recipe.calls.append((0, seed))
            raise ConvergenceError("the loss oscillates")
        return recipe(train, seed)

    made = influence().verify(queries(), sometimes, remove=4)
    assert list(made.failed.values()) == ["the loss oscillates"]
    assert len(made.removed) == 3 and not set(made.failed) & set(made.removed.tolist())
    assert made.predicted.shape == made.actual.shape == made.noise.shape == (3, 5)
    assert made.summary()["failed"] == 1 and made.pearson() > 0.99


def test_all_failing_leaves_empty_arrays_and_says_so():
    recipe = Newton()

    def only_all(train, seed):
        if len(train[0]) < N:
            raise ConvergenceError("no")
        return recipe(train, seed)

    made = influence().verify(queries(), only_all, remove=2)
    assert made.actual.shape == (0, 5) and len(made.failed) == 2
    assert np.isnan(made.pearson()) and "no variation" in made.words


def test_a_baseline_that_does_not_converge_ends_the_run():
    def never(train, seed):
        raise ConvergenceError("stuck")

    with pytest.raises(ConvergenceError, match=r"full training set \(seed 0\): stuck"):
        influence().verify(queries(), never, remove=1)


def test_seeds_give_a_standard_error():
    offsets = {0: 0.0, 1: 0.3, 2: -0.1}

    def noisy(train, seed):
        model = Newton()(train, seed)
        if len(train[0]) < N:
            with torch.no_grad():
                model.bias[0] += offsets[seed] * 1e-3
        return model

    made = influence().verify(queries(), noisy, remove=2, seeds=(0, 1, 2))
    runs = np.stack([influence().verify(queries(), noisy, remove=2, seeds=(s,)).actual for s in (0, 1, 2)])
    np.testing.assert_allclose(made.actual, runs.mean(0), rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(made.noise, runs.std(0, ddof=1) / 3**0.5, rtol=1e-6, atol=1e-14)
    assert "mean of 3 seeds" in made.estimand and made.summary()["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("result", "error", "found"),
    [
        (lambda: "a string", InputError, "recipe returned a str; expected the trained torch.nn.Module"),
        (
            lambda: nn.Linear(16, 4).eval(),
            InputError,
            r"another architecture.*'bias' is \(4,\), expected \(3,\)",
        ),
        (lambda: nn.Linear(16, 3, bias=False), InputError, r"another architecture.*'bias' is absent"),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 3)),
            InputError,
            "another architecture",
        ),
    ],
)
def test_a_recipe_that_returns_something_else_is_refused(result, error, found):
    with pytest.raises(error, match=found):
        influence().verify(queries(), lambda train, seed: result(), remove=1)


def test_a_recipe_that_leaves_dropout_on_is_refused():
    def make():
        return nn.Sequential(nn.Linear(16, 3), nn.Dropout(0.5))

    model = seeded(make)
    fitted = Influence(model, (plain().x, plain().y), loss="cross_entropy", progress=False).fit()
    with pytest.raises(InputError, match=r"dropout in training mode.*model\.eval\(\)"):
        fitted.verify(queries(), lambda train, seed: make().double().train(), remove=1)


def test_a_recipe_that_diverges_is_refused():
    def broken(train, seed):
        model = nn.Linear(16, 3)
        nn.init.constant_(model.weight, float("nan"))
        return model

    with pytest.raises(NonFiniteError, match="training diverged"):
        influence().verify(queries(), broken, remove=1)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"remove": 0}, "remove=0"),
        ({"seeds": ()}, "seeds is empty"),
        ({"reduction": "median"}, "reduction='median'"),
    ],
)
def test_bad_arguments_are_refused(options, found):
    with as_a_user(), pytest.raises(InputError, match=found):
        influence().verify(queries(), Newton(), **options)


class Killed:
    """A recipe that is interrupted before its `after`-th training."""

    def __init__(self, after: int | None):
        self.after = after
        self.inner = Newton()

    def settings(self):
        return {}

    def __call__(self, train, seed):
        if self.after is not None and len(self.inner.calls) == self.after:
            raise KeyboardInterrupt
        return self.inner(train, seed)


def test_a_killed_run_resumes_where_it_stopped(tmp_path):
    fresh = influence().verify(queries(), Killed(None), remove=5)
    first, second, third = Killed(3), Killed(None), Killed(None)
    with pytest.raises(KeyboardInterrupt):
        influence(run_dir=tmp_path / "run").verify(queries(), first, remove=5)
    assert len(first.inner.calls) == 3
    resumed = influence(run_dir=tmp_path / "run").verify(queries(), second, remove=5)
    assert len(second.inner.calls) == 7 - 3
    assert [call for call in second.inner.calls if call[0] == N] == [(N, 1)]
    np.testing.assert_array_equal(resumed.actual, fresh.actual)
    np.testing.assert_array_equal(resumed.removed, fresh.removed)
    influence(run_dir=tmp_path / "run").verify(queries(), third, remove=5)
    assert not third.inner.calls


def test_a_failed_retraining_is_remembered(tmp_path):
    def failing(train, seed):
        if len(train[0]) < N:
            raise ConvergenceError("no optimum")
        return Newton()(train, seed)

    for _ in range(2):
        made = influence(run_dir=tmp_path).verify(queries(), failing, remove=2)
        assert set(made.failed.values()) == {"no optimum"}


def test_a_run_directory_of_another_model_data_or_recipe_is_refused(tmp_path):
    influence(run_dir=tmp_path).verify(queries(), Newton(), remove=1)
    other = Plain(plain().model, cross_entropy, (plain().x, plain().y), DECAY)
    with torch.no_grad():
        other.model.bias += 0.1
    changed = Influence(
        other.model, (plain().x, plain().y), loss="cross_entropy", run_dir=tmp_path, progress=False
    ).fit()
    with pytest.raises(StoreError, match=r"another run: model, parameters differ.*new directory"):
        changed.verify(queries(), Newton(), remove=1)
    fewer = influence((plain().x[1:], plain().y[1:]), run_dir=tmp_path)
    with pytest.raises(StoreError, match="train differs"):
        fewer.verify(queries(), Newton(), remove=1)
    with pytest.raises(StoreError, match="recipe differs"):
        influence(run_dir=tmp_path).verify(queries(), Newton(True), remove=1)
    with pytest.raises(StoreError, match="queries differs"):
        influence(run_dir=tmp_path).verify((queries()[0][:2], queries()[1][:2]), Newton(), remove=1)


def scaled(train, seed, *, factor):
    return Newton()(train, seed)


def test_settings_bound_to_a_partial_recipe_count(tmp_path):
    influence(run_dir=tmp_path).verify(queries(), functools.partial(scaled, factor=1), remove=1)
    influence(run_dir=tmp_path).verify(queries(), functools.partial(scaled, factor=1), remove=1)
    with pytest.raises(StoreError, match="recipe differs"):
        influence(run_dir=tmp_path).verify(queries(), functools.partial(scaled, factor=2), remove=1)


def test_frozen_parameters_belong_to_the_model(tmp_path):
    def fitted(shift):
        model = seeded(lambda: nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)))
        with torch.no_grad():
            model[0].weight[0, 0] += shift
        data = (plain().x, plain().y)
        made = Influence(
            model, data, loss="cross_entropy", parameters=model[2], run_dir=tmp_path, progress=False
        )
        return made.fit(), model

    first, model = fitted(0.0)
    first.verify(queries(), lambda train, seed: model, remove=1)
    second, _ = fitted(0.5)
    with pytest.raises(StoreError, match="model"):
        second.verify(queries(), lambda train, seed: model, remove=1)


def test_what_is_shown():
    made = influence().verify(queries(), Newton(), remove=3)
    table = made.to_pandas()
    assert len(table) == 15 and list(table.columns) == ["removed", "query", "predicted", "actual", "noise"]
    assert (
        "pearson=" in repr(made) and made.estimand == "leave-one-out change of the loss, one fixed-seed run"
    )
    per_query = [made.pearson(q) for q in range(5)]
    assert all(-1 <= value <= 1 for value in per_query)
    assert set(made.summary()) >= {"pearson", "spearman", "slope", "removed", "queries", "baseline_gap"}
