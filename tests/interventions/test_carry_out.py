"""Interventions carried out by a recipe: the edited data it gets, weights, failures, files, bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.interventions.edited_problems import KINDS, actual_change, convex, edit, fit, queries
from tests.support import as_a_user, digits, seeded
from wherefrom import FullBatch, Influence
from wherefrom.errors import ConvergenceError, InputError, StoreError, UnsupportedError
from wherefrom.interventions import Intervention, edited_data
from wherefrom.task import Data


def recipe(reduction: str = "mean", **options) -> FullBatch:
    plain = convex()
    return FullBatch(
        plain.model,
        loss="cross_entropy",
        weight_decay=0.03,
        gradient_tolerance=1e-8,
        divide_by=plain.n if reduction == "sum" else None,
        **options,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_predicted_is_carried_out(kind, reduction):
    plain = convex()
    made, edited = edit(kind, fit(plain), plain)
    outcome = made.retrain(recipe(reduction), queries(), reduction=reduction)
    actual = actual_change(plain, edited, reduction, queries()).numpy()
    np.testing.assert_allclose(outcome.actual, actual, atol=2e-6)
    assert outcome.pearson() > 0.99 and outcome.slope() == pytest.approx(1, abs=0.1)
    assert outcome.relative_error < 0.1 and "Retraining confirms" in outcome.words
    assert outcome.baseline_gap < 1e-5 and outcome.seeds == (0,) and not outcome.failed


def test_whole_weights_become_repetitions_for_a_recipe_without_weights():
    plain = convex()
    made = fit(plain).upweight([3, 5], 3).remove([7])
    seen = []

    def plain_recipe(train, seed):
        seen.append(train)
        return recipe()(train, seed)

    outcome = made.retrain(plain_recipe, queries())
    assert len(seen[1][1]) == plain.n + 4 - 1
    assert torch.equal(made.data()[0], seen[1][0])
    with_weights = made.retrain(recipe(), queries())
    np.testing.assert_allclose(outcome.actual, with_weights.actual, atol=1e-6)
    with pytest.raises(InputError, match=r"example 3 is to count 0\.5 times.*no argument weights"):
        fit(plain).upweight([3], 0.5).retrain(plain_recipe, queries())


def test_a_retraining_that_does_not_converge_is_reported_and_not_averaged():
    plain = convex()
    made = fit(plain).remove([1])

    def sometimes(train, seed):
        if len(train[1]) < plain.n and seed == 1:
            raise ConvergenceError("it went nowhere")
        return recipe()(train, seed)

    outcome = made.retrain(sometimes, queries(), seeds=(0, 1, 2))
    assert outcome.failed == {1: "it went nowhere"} and outcome.seeds == (0, 2)
    np.testing.assert_allclose(outcome.actual, made.retrain(recipe(), queries()).actual)
    assert "1 of 3 seeds did not converge" in outcome.words
    failed = made.retrain(sometimes, queries(), seeds=(1,))
    assert np.isnan(failed.actual).all() and "No retraining converged" in failed.words
    assert np.isnan(failed.relative_error) and np.isnan(failed.pearson())

    def never(train, seed):
        raise ConvergenceError("not even this")

    with pytest.raises(ConvergenceError, match="did not converge on the full training set"):
        made.retrain(never, queries())


def test_finished_retrainings_are_kept_and_another_edit_is_another_run(tmp_path):
    plain = convex()

    class Counted:
        def __init__(self):
            self.calls = []

        def __call__(self, train, seed):
            self.calls.append(len(train[1]))
            return recipe()(train, seed)

        def settings(self):
            return {}

    counted = Counted()
    influence = fit(plain, run_dir=tmp_path)
    first = influence.remove([1]).retrain(counted, queries())
    again = influence.remove([1]).retrain(counted, queries())
    assert counted.calls == [plain.n, plain.n - 1, plain.n] and np.array_equal(first.actual, again.actual)
    influence.relabel([1], 0 if plain.y[1] else 1).retrain(counted, queries())
    influence.relabel([2], 0 if plain.y[2] else 1).retrain(counted, queries())
    assert counted.calls[3:] == [plain.n, plain.n]
    # Other queries and other measurements are kept beside them, and the curve reads what is there.
    influence.remove([1]).retrain(counted, queries(3))
    margins = influence.remove([1]).retrain(counted, queries(), "margin")
    assert len(counted.calls) == 11 and not np.array_equal(margins.actual, first.actual)
    influence.removal_curve([1, 2], [1], queries(), counted)
    assert len(counted.calls) == 11
    other = fit(convex(), run_dir=tmp_path, parameters="weight", weight_decay=0.03)
    with pytest.raises(StoreError):
        other.remove([1]).retrain(counted, queries())


def test_the_table_and_the_summary_put_both_side_by_side():
    outcome = fit(convex()).remove([1, 2]).retrain(recipe(), queries())
    table = outcome.to_pandas()
    assert np.allclose(table["actual"], outcome.actual) and {"predicted", "noise"} <= set(table.columns)
    summary = outcome.summary()
    assert summary["seeds"] == [0] and summary["pearson"] == outcome.pearson()
    assert "pearson=" in repr(outcome)


def test_weights_of_the_ready_made_recipe():
    plain = convex()
    train = (plain.x, plain.y)
    weights = torch.ones(plain.n, dtype=torch.float64)
    weights[4] = 0
    model = recipe()(train, 0, weights=weights)
    left = recipe()(Data(train).edited(drop=[4]), 0)
    torch.testing.assert_close(model.weight, left.weight, rtol=0, atol=1e-6)
    for bad, message in (
        (torch.ones(3), r"weights has shape \(3,\); expected \(90,\)"),
        (-torch.ones(90), "negative number, NaN"),
        (torch.zeros(90), "zeros alone"),
    ):
        with pytest.raises(InputError, match=message):
            recipe()(train, 0, weights=bad)
    with pytest.raises(InputError, match="divide_by=0"):
        FullBatch(plain.model, loss="cross_entropy", divide_by=0)


def test_a_network_of_images_is_edited_as_a_data_set():
    """Data sets that make their items on demand, and dicts with labels, go the same way as tensors."""
    x, y = digits(40, classes=3)
    model = seeded(lambda: nn.Linear(64, 3))
    items = [{"input": row, "label": int(label)} for row, label in zip(x, y)]
    influence = Influence(model, items, loss="cross_entropy", weight_decay=0.1, progress=False).fit()
    made = influence.relabel([0], int(y[0] + 1) % 3).remove([1]).add([items[2]])
    change = made.change(items[:5], order="first")
    other = Influence(model, (x, y), loss="cross_entropy", weight_decay=0.1, progress=False).fit()
    expected = other.relabel([0], (y[0] + 1) % 3).remove([1]).add((x[2:3], y[2:3]))
    torch.testing.assert_close(change.values, expected.change((x[:5], y[:5]), order="first").values)
    assert made.data()[0]["label"] == int(y[0] + 1) % 3 and len(made.data()) == 40


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda i: i.remove([]), "indices is empty"),
        (lambda i: i.remove([90]), r"90 is outside the training set, 0\.\.89"),
        (lambda i: i.remove([1, 1]), "named twice"),
        (lambda i: i.remove({1, 2}), "indices are a set that is no sequence of integers"),
        (lambda i: i.relabel([1], 1.5), r"target=1\.5: torch.int64 cannot hold"),
        (lambda i: i.add((torch.ones(16), torch.tensor(0))), "A single example goes into a list"),
        (lambda i: i.perturb([1], "more"), "delta is a str that holds no numbers"),
        (lambda i: i.perturb([1], torch.ones(16), valid_range=3), "valid_range=3: expected"),
        (
            lambda i: i.remove([1]).retrain(recipe(), queries(), seeds=3),
            "seeds=3: expected whole numbers in a list",
        ),
        (lambda i: i.remove(range(90)), "all 90 training examples are removed"),
        (lambda i: i.upweight([1], -1), "times=-1"),
        (lambda i: i.upweight([1], float("nan")), "times=nan"),
        (lambda i: i.relabel([1, 2], [0, 1, 2]), "labels has 3 entries for 2 training examples"),
        (lambda i: i.replace([1, 2], (torch.ones(1, 16), torch.tensor([0]))), "holds 1 examples for 2"),
        (lambda i: i.replace([1], (torch.ones(1, 15), torch.tensor([0]))), "does not have the form"),
        (lambda i: i.add([]), "examples is empty"),
        (lambda i: i.perturb([1], torch.ones(3)), r"delta has shape \(3,\); expected \(16,\)"),
        (lambda i: i.perturb([1], torch.full((16,), torch.nan)), "delta holds NaN"),
        (lambda i: i.perturb([1], torch.ones(16), valid_range=(0.0, 1.0)), r"outside valid_range=0\.\.1"),
        (
            lambda i: i.perturb([1], torch.ones(16), valid_range=(1.0, 0.0)),
            r"expected .smallest, largest.",
        ),
        (lambda i: i.remove([1]).relabel([1], 0), "both removed and given another content"),
        (lambda i: i.remove([1]).remove([1, 2]), "weight of training example 1 is changed twice"),
        (lambda i: i.relabel([1], 0) & i.relabel([1], 1), "content of training example 1 is changed twice"),
    ],
)
def test_edits_that_make_no_sense_are_refused(call, message):
    influence = fit(convex())
    with as_a_user(), pytest.raises(InputError, match=message):
        call(influence)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda i: i.relabel([1], 3).change(queries()), InputError, r"edited examples.*3"),
        (lambda i: Intervention(i).change(queries()), InputError, "the intervention is empty"),
        (
            lambda i: i.remove((convex().y == 1).nonzero()[:, 0]).change(queries()),
            InputError,
            "takes away all [0-9]+ training examples of class 1",
        ),
        (
            lambda i: i.relabel((convex().y == 2).nonzero()[:, 0], 0).change(queries()),
            InputError,
            "of class 2",
        ),
        (lambda i: i.remove([1]).change(queries(), order="third"), InputError, "order='third'"),
        (lambda i: i.remove([1]).change(queries(), reduction="max"), InputError, "reduction='max'"),
        (
            lambda i: i.remove([1]).retrain(recipe(), queries(), seeds=()),
            InputError,
            "seeds is empty: expected at least one",
        ),
        (lambda i: i.remove([1]).retrain("train.py", queries()), InputError, "recipe='train.py'"),
    ],
)
def test_changes_that_cannot_be_predicted_are_refused(call, error, message):
    with as_a_user(), pytest.raises(error, match=message):
        call(fit(convex()))


def test_orders_that_do_not_exist_for_a_solver_or_a_model_are_refused():
    from tests.interventions.edited_problems import network

    layered = fit(network(), solver="ekfac", curvature="ggn", damping="auto").remove([1])
    with pytest.raises(UnsupportedError, match="order='newton' needs the curvature without"):
        layered.change(queries(), order="newton")
    with pytest.raises(UnsupportedError, match="order='optimum' follows a convex objective"):
        fit(network()).remove([1]).change(queries(), order="optimum")


def test_tokens_are_not_perturbed():
    tokens = torch.randint(5, (20, 3), generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)))
    influence = Influence(model, (tokens, tokens[:, 0] % 2), loss="cross_entropy", progress=False).fit()
    with pytest.raises(InputError, match=r"of dtype torch\.int64; expected floating-point"):
        influence.perturb([1], torch.ones(3))


def test_edited_data_keeps_weights_where_they_can_be_handed_on():
    plain = convex()
    made = fit(plain).upweight([2], 0.5).remove([0])
    data, weights = edited_data(Data((plain.x, plain.y)), made.edits, weighted=True)
    assert len(data[1]) == 89 and weights is not None and float(weights[1]) == 0.5


def test_another_forward_pass_is_another_run(tmp_path):
    """What feeds the model decides what retraining gives: nothing kept with another is read."""
    plain = convex()

    def remove(scale):
        def forward(model, batch):
            return scale * model(batch[0])

        own = FullBatch(plain.model, loss="cross_entropy", weight_decay=0.03, forward=forward)
        influence = fit(plain, run_dir=tmp_path / "run", forward=forward, damping=0.01)
        return influence.remove([1]).retrain(own, queries())

    assert remove(1.0).seeds == (0,)
    with pytest.raises(StoreError, match="another run"):
        remove(0.5)


def test_a_change_below_the_noise_of_training_cannot_be_told():
    """A recipe whose end depends on seed and order by more than the edit does."""
    plain = convex()

    def noisy(train, seed):
        model = recipe()(train, seed)
        with torch.no_grad():
            model.bias[0] += 0.5 * (seed == 1) + 0.1 * (len(train[0]) < plain.n)
        return model

    one = fit(plain).remove([1])
    outcome = one.retrain(noisy, queries())
    assert outcome.verdict == "cannot tell" and "noise of training" in outcome.words
    np.testing.assert_allclose(outcome.noise, 2**0.5 * outcome.seed_spread)
    assert outcome.summary()["retraining_agrees"] == "cannot tell" and outcome.summary()["noise"] > 0


def test_a_prediction_far_outside_the_noise_is_refuted():
    plain = convex()
    outcome = fit(plain).remove([1]).retrain(recipe(), queries())
    wrong = dataclasses.replace(
        outcome, change=dataclasses.replace(outcome.change, values=100 * outcome.change.values)
    )
    assert outcome.verdict == "yes" and wrong.verdict == "no" and "does not confirm" in wrong.words
    unknown = dataclasses.replace(outcome, noise=np.full_like(outcome.noise, np.nan))
    assert unknown.verdict == "cannot tell" and "not known" in unknown.words
