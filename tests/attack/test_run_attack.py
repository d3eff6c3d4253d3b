"""Attacks carried out and followed by real retraining, on heads and on a network."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tests.attack.attack_problems import ALPHA, OPTIONS, data, frozen_network, head, plain_head, recipe
from tests.support import as_a_user, seeded
from wherefrom import FullBatch, Influence
from wherefrom.errors import ConvergenceError, InputError, UnsupportedError
from wherefrom.influence import input_influence
from wherefrom.studies.attack import AttackResult, Budget, run_attack

BUDGET = Budget(0.25, low=0.0, high=1.0)


@functools.lru_cache
def undecided() -> tuple[Tensor, Tensor]:
    """The four correctly predicted queries of smallest margin, and one that is mispredicted."""
    x, y = data(100, start=100)
    network = frozen_network()  # trained here when it is the first use: not without gradients
    with torch.no_grad():
        p = network(x).softmax(1)
    margin = 2 * p.gather(1, y[:, None])[:, 0] - p.max(1).values - p.topk(2, dim=1).values[:, 1]
    right = (p.argmax(1) == y).nonzero()[:, 0]
    wrong = (p.argmax(1) != y).nonzero()[:1, 0]
    chosen = torch.cat([right[margin[right].argsort()[:4]], wrong])
    return x[chosen], y[chosen]


def attack(queries=None, **options) -> AttackResult:
    influence = options.pop("influence", None) or head()
    options = {"budget": BUDGET, "steps": 6, **options}
    return run_attack(influence, queries or undecided(), **options)


def test_one_edited_example_flips_a_query_and_retraining_from_scratch_agrees():
    queries = (undecided()[0][:1], undecided()[1][:1])
    controls = data(50, start=300)
    found = attack(queries, edits=2, controls=controls)
    assert found.flips == 1 and found.share == 1.0 and found.seeds == (0,)
    assert found.size.linf <= 0.25 + 1e-12 and found.size.linf > 0.05
    # In plain torch, from zero: the same prediction.
    edited = data(60)[0].clone()
    edited[found.index] = found.edited
    torch.testing.assert_close(found.train[0], edited)
    plain = plain_head(edited)
    theta = plain.minimise(start=torch.zeros_like(plain.theta))
    with torch.no_grad():
        features = frozen_network()[:2](queries[0])
        others = frozen_network()[:2](controls[0])
    assert plain.outputs(theta, features).argmax(1).tolist() == found.after[0].tolist()
    assert found.controls is not None and found.controls.count == 50
    after = plain.outputs(theta, others).argmax(1)
    before = plain_head().outputs(plain_head().trained().theta, others).argmax(1)
    assert found.controls.changed == pytest.approx(float((after != before).double().mean()))
    assert found.controls.accuracy_after == pytest.approx(float((after == controls[1]).double().mean()))
    # And by a recipe that knows nothing of heads.
    by_recipe = attack(queries, edits=2, controls=controls, recipe=recipe(), seeds=(0, 1))
    assert by_recipe.after.tolist() == found.after.tolist() * 2 and by_recipe.retraining == "by the recipe"
    assert by_recipe.controls == found.controls
    assert "1 of 1 targeted predictions flip" in found.words


def test_the_loss_rises_step_by_step_and_the_first_step_follows_the_input_influence():
    found = attack(steps=1, step_size=0.01, edits=2)
    queries = (undecided()[0][:4], undecided()[1][:4])
    influence = input_influence(head(), queries)
    index = influence.top(2, order=1)
    assert found.index.tolist() == index
    original = data(60)[0][index]
    expected = (original + 0.01 * influence.values[0, index].sign()).clamp(0, 1)
    torch.testing.assert_close(found.edited, expected)
    assert found.history[1].value > found.history[0].value
    delta = torch.zeros(60, 64).double()
    delta[index] = expected - original
    predicted = float(influence.predicted_change(delta).sum())
    assert found.history[1].value - found.history[0].value == pytest.approx(predicted, rel=0.2)


def test_a_set_of_queries_is_attacked_at_once_and_the_mispredicted_ones_are_left_out():
    found = attack(edits=6, steps=12)
    assert found.already_wrong == [4] and found.queries.tolist() == [0, 1, 2, 3]
    assert found.flips >= 2
    values = [step.value for step in found.history]
    assert max(values) > 1.5 * values[0]
    summary = found.summary()
    assert summary["targeted"] == 4 and summary["flips"] == found.flips and summary["controls"] is None
    assert "AttackResult(flips=" in repr(found)


def test_a_margin_is_lowered():
    by_margin = attack(edits=4, measurement="margin")
    values = [step.value for step in by_margin.history]
    assert min(values[1:]) < values[0] and by_margin.flips >= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_examples_may_be_fixed_or_restricted(norm):
    budget = Budget(1.0, norm, 0.0, 1.0)
    fixed = attack(budget=budget, examples=[5, 9], steps=2)
    assert fixed.index.tolist() == [5, 9]
    restricted = attack(budget=budget, candidates=range(10, 20), edits=3, steps=2)
    assert set(restricted.index.tolist()) <= set(range(10, 20)) and len(restricted.index) == 3
    if norm == "l2":
        assert restricted.size.l2 <= 1 + 1e-9


def test_edits_on_a_pixel_grid_stay_on_it():
    found = attack(budget=Budget.grey_levels(3, levels=17), edits=4, steps=6)
    levels = found.edited * 16
    torch.testing.assert_close(levels, levels.round())
    assert 1 <= round(found.size.grey_levels, 9) <= 3
    assert found.size.same_picture is False
    same = attack(budget=Budget.grey_levels(0.5, levels=17), edits=4, steps=6)
    assert same.size.same_picture is True and same.size.grey_levels < 0.5
    assert "the same picture in 8 bits" in same.words


class Pictures(Dataset):
    """A data set of float32 pictures."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x.float(), y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], int(self.y[i])


@pytest.mark.parametrize("form", ["data set", "list", "tensor data set", "arrays", "dict"])
def test_the_edited_training_set_keeps_the_users_form(form):
    x, y = data(60)
    model = frozen_network()
    forms = {
        "data set": Pictures(x, y),
        "list": [(x[i], y[i]) for i in range(60)],
        "tensor data set": TensorDataset(x, y),
        "arrays": (x.numpy(), y.numpy()),
        "dict": {"input": x, "labels": y},
    }
    train = forms[form]
    queries = undecided() if form != "dict" else {"input": undecided()[0], "labels": undecided()[1]}
    influence = Influence(model, train, progress=False, **OPTIONS).fit()
    found = run_attack(influence, queries, budget=BUDGET, edits=3, steps=3)
    i = int(found.index[0])
    if form == "dict":
        stored = found.train["input"][i]
    elif form == "arrays":
        assert isinstance(found.train[0], np.ndarray)
        stored = torch.from_numpy(found.train[0])[i]
    else:
        stored = found.train[i][0]
    assert type(found.train) is type(train) or form == "data set"
    assert stored.dtype == (torch.float32 if form == "data set" else torch.float64)
    assert torch.equal(stored.double(), found.edited[0])
    assert not torch.equal(found.edited, found.original)


@functools.lru_cache
def network() -> tuple[Influence, FullBatch]:
    model = seeded(lambda: nn.Sequential(nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)))
    options = {"loss": "cross_entropy", "weight_decay": 0.01}
    trained = FullBatch(model, **options)(data(40), 0).eval()
    influence = Influence(trained, data(40), curvature="ggn", damping=1e-3, progress=False, **options).fit()
    return influence, FullBatch(trained, gradient_tolerance=1e-5, **options)


@pytest.mark.parametrize("refit_every", [0, 2])
def test_a_network_is_attacked_with_its_recipe(refit_every):
    influence, own = network()
    found = attack(
        undecided(),
        influence=influence,
        recipe=own,
        edits=4,
        steps=4,
        refit_every=refit_every,
        budget=Budget(0.4, low=0.0, high=1.0),
        controls=data(30, start=300),
    )
    assert len(found.history) == (1 if refit_every == 0 else 3) or found.flips == len(found.queries)
    assert found.seeds == (0,) and found.retraining == "by the recipe"
    # Retrained by hand on what the attack left behind: the loss of the targets has risen.
    model = own(found.train, 0)
    targets = undecided()[0][found.queries], undecided()[1][found.queries]
    losses = [
        float(nn.functional.cross_entropy(m(targets[0]), targets[1]).detach())
        for m in (influence.objective.model, model)
    ]
    assert losses[1] > 1.1 * losses[0]
    assert model(targets[0]).argmax(1).tolist() == found.after[0].tolist()


def test_a_retraining_that_does_not_converge_is_reported_and_counts_nowhere():
    own = recipe()

    def sometimes(train, seed):
        if seed == 1:
            raise ConvergenceError("ran out of iterations")
        return own(train, seed)

    found = attack(edits=6, recipe=sometimes, seeds=(0, 1), controls=data(20, start=300))
    assert found.seeds == (0,) and found.failed == {1: "ran out of iterations"}
    assert found.before.shape == (1, 4) and "1 of 2 retrainings did not converge" in found.words

    def never(train, seed):
        raise ConvergenceError("ran out of iterations")

    none = attack(edits=6, recipe=never, controls=data(20, start=300))
    assert none.seeds == () and none.controls is None and np.isnan(none.flips)
    assert none.words.startswith("Undecided")


def test_a_head_whose_optimum_is_out_of_reach_is_reported(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "wherefrom.studies.attack.retrain.has_optimum",
            lambda problem, heads, edited: heads[:, 0, 0] > 1e9,
        )
        found = attack(steps=1)
    assert found.seeds == () and "no optimum of the head was found" in found.failed[0]
    monkeypatch.setattr("wherefrom.studies.attack.newton._MOST_NEWTON", 0)
    monkeypatch.setattr("wherefrom.studies.attack.head_attack.TOLERANCE", 1e-12)
    monkeypatch.setattr("wherefrom.studies.attack.newton._ROUNDING", 0.0)
    with pytest.raises(ConvergenceError, match="no optimum of the head"):
        attack(steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.0}, "radius=0"),
        ({"budget": -1}, "radius=-1"),
        ({"edits": 0}, "edits=0: expected a whole number from 1 to 60"),
        ({"edits": 61}, "edits=61"),
        ({"edits": 3, "candidates": [1, 2]}, "edits=3: expected a whole number from 1 to 2"),
        ({"examples": [60]}, "60 is outside the training set"),
        ({"candidates": [-1]}, "-1 is outside the training set"),
        ({"examples": []}, "indices is empty"),
        ({"examples": [1], "candidates": [1, 2]}, "expected one of the two"),
        ({"steps": 0}, "steps=0"),
        ({"step_size": 0.0}, "step_size=0"),
        ({"seeds": ()}, "seeds is empty"),
        ({"refit_every": -1}, "refit_every=-1"),
        ({"recipe": "again"}, "recipe='again'"),
        ({"budget": Budget(0.1, low=0.2, high=1.0)}, "outside the valid range"),
        ({"input": 1}, "input=1 is int64"),
        ({"queries": (data(1)[0][:0], data(1)[1][:0])}, "queries is empty"),
    ],
)
def test_bad_requests_are_refused(options, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        attack(**options)


def test_queries_that_are_all_mispredicted_are_refused():
    x, y = undecided()
    with pytest.raises(InputError, match="all 1 queries are mispredicted already"):
        attack((x[4:], y[4:]))


def test_a_network_without_a_recipe_is_refused():
    with pytest.raises(InputError, match=r"recipe= is needed.*not those of one final linear layer"):
        attack(influence=network()[0])


def test_tokens_are_not_continuous():
    model = seeded(lambda: nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3)))
    tokens = torch.randint(5, (30, 2), generator=torch.Generator().manual_seed(0))
    train = tokens, torch.randint(3, (30,), generator=torch.Generator().manual_seed(1))
    influence = Influence(model, train, parameters="2", progress=False, **OPTIONS).fit()
    with pytest.raises(InputError, match="no continuous input"):
        run_attack(influence, train, budget=0.1)


def test_regression_has_no_class_to_flip():
    x, _ = data(40)
    influence = Influence(
        seeded(lambda: nn.Linear(64, 1)),
        (x, x[:, :1]),
        loss="squared_error",
        weight_decay=ALPHA,
        progress=False,
    ).fit()
    with pytest.raises(UnsupportedError, match="predicts no single class"):
        run_attack(influence, (x[:2], x[:2, :1]), budget=0.1)


def test_what_a_collate_function_computes_cannot_be_written_back():
    x, y = data(60)
    model = frozen_network()

    def halved(items):
        return torch.stack([2 * item[0] for item in items]), torch.stack([item[1] for item in items])

    train = (0.5 * x, y)
    influence = Influence(model, train, collate=halved, progress=False, **OPTIONS).fit()
    queries = (0.5 * undecided()[0], undecided()[1])
    with pytest.raises(InputError, match="move what the collate function computes into the data set"):
        run_attack(influence, queries, budget=BUDGET, steps=1)


def test_a_recipe_of_another_architecture_is_refused():
    influence, _ = network()
    with pytest.raises(InputError, match="another architecture"):
        attack(influence=influence, recipe=lambda train, seed: nn.Linear(64, 3), steps=1)
    with pytest.raises(InputError, match="returned a str"):
        attack(influence=influence, recipe=lambda train, seed: "model", steps=1)
