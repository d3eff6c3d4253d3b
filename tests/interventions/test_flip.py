"""What would flip this prediction: against exhaustive retraining, and against retraining of convex models."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import wherefrom
from tests.support import as_a_user
from wherefrom.errors import ConvergenceError, InputError, UnsupportedError
from wherefrom.interventions import Confirmation, FlipSet, Robustness
from wherefrom.interventions.flip_search import class_codes, greedy
from wherefrom.interventions.linear_refits import LinearRefits
from wherefrom.losses import SmoothHinge

F64 = torch.float64


def newton_logistic(x: np.ndarray, y: np.ndarray, decay: float) -> np.ndarray:
    """Mean logistic loss and `½ decay ‖θ‖²`, minimised in plain numpy."""
    theta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ theta))
        gradient = x.T @ (p - y) / len(y) + decay * theta
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x / len(y) + decay * np.eye(len(theta)), gradient)
        theta -= step
        if np.abs(step).max() < 1e-12:
            break
    return theta


def exhaustive(
    x: np.ndarray, y: np.ndarray, queries: np.ndarray, decay: float, most: int
) -> list[int | None]:
    """The size of the smallest set whose removal flips each query, by retraining without every set."""
    before = queries @ newton_logistic(x, y, decay) > 0
    smallest: list[int | None] = [None] * len(queries)
    for size in range(1, most + 1):
        for gone in itertools.combinations(range(len(x)), size):
            kept = np.setdiff1d(np.arange(len(x)), gone)
            if len(set(y[kept])) < 2:
                continue
            after = queries @ newton_logistic(x[kept], y[kept], decay) > 0
            for q in np.flatnonzero(after != before):
                smallest[q] = smallest[q] or size
    return smallest


def blobs(n: int, d: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=F64)
    weight = torch.randn(d, classes, generator=torch.Generator().manual_seed(99), dtype=F64)
    return x, (x @ weight + torch.randn(n, classes, generator=generator, dtype=F64)).argmax(1)


def linear_case(name: str):
    """Model, data, queries, loss and the way back to retraining of a convex problem."""
    x, y = blobs(82, 4, 3 if name == "softmax" else 2)
    targets, outputs, loss = {
        "softmax": (y, 3, "cross_entropy"),
        "two classes": (y, 2, "cross_entropy"),
        "binary": (y.to(F64), 1, "binary_cross_entropy"),
        "logistic": (2 * y.to(F64) - 1, 1, "logistic"),
        "smooth hinge": (2 * y.to(F64) - 1, 1, SmoothHinge(0.5)),
    }[name]
    train, queries = (x[:70], targets[:70]), (x[70:], targets[70:])
    return nn.Linear(4, outputs), train, queries, loss


def fitted(model: nn.Module, train, loss, decay: float = 0.02, reduction: str = "mean", **options):
    recipe = wherefrom.FullBatch(
        model, loss=loss, weight_decay=decay, divide_by=len(train[0]) if reduction == "sum" else None
    )
    given = {"progress": False, **options}
    made = wherefrom.Influence(recipe(train, 0).eval(), train, loss=loss, weight_decay=decay, **given).fit()
    return made, recipe


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_smallest_set_is_the_one_that_exhaustive_retraining_finds(seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(11, 2))
    y = (x @ [1.0, -0.7] + random.normal(size=11) > 0).astype(float)
    queries = random.normal(size=(8, 2))
    truth = exhaustive(x, y, queries, 0.1, 4)
    assert any(truth)
    train = (torch.tensor(x), torch.tensor(y))
    influence, _ = fitted(nn.Linear(2, 1, bias=False), train, "binary_cross_entropy", 0.1)
    found = influence.flip((torch.tensor(queries), torch.zeros(8, dtype=F64)), max_size=4)
    # Rankings cannot see every combination: once in a while a set is one too large, or is missed.
    assert all(one.size is None or one.size >= t for one, t in zip(found, truth))
    assert sum(one.size == t for one, t in zip(found, truth)) >= 7
    for one in found:  # and they flip, says the oracle
        kept = np.setdiff1d(np.arange(11), one.indices)
        after = queries[one.query] @ newton_logistic(x[kept], y[kept], 0.1)
        assert ((after > 0) != one.predicted) == (one.size is not None)
    first = influence.flip((torch.tensor(queries), torch.zeros(8, dtype=F64)), max_size=4, order="first")
    assert all(one.size is None or one.size >= t for one, t in zip(first, truth))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["softmax", "two classes", "binary", "logistic", "smooth hinge"])
def test_retraining_confirms_sets_and_margins_of_linear_models(name, reduction):
    model, train, queries, loss = linear_case(name)
    influence, recipe = fitted(model, train, loss, reduction=reduction)
    flips = influence.flip(queries, max_size=20, reduction=reduction)
    assert flips.order == "newton" and all(one.settled for one in flips)
    found = [one for one in flips if one.size is not None]
    assert len(found) >= 4
    with torch.no_grad():
        outputs = influence.objective.model(queries[0])
    scores = outputs.topk(2, dim=1).values if outputs.shape[1] > 1 else outputs.abs()
    margins = scores[:, 0] - scores[:, 1] if outputs.shape[1] > 1 else scores[:, 0]
    torch.testing.assert_close(torch.tensor([one.margin for one in flips], dtype=F64), margins)
    confirmed = flips.confirm(recipe)
    for one in confirmed:
        if one.size is not None:
            assert one.confirmed_size == one.size and one.confirmation.tried == (one.size,)
            assert one.confirmation.margin == pytest.approx(one.margin_after, abs=1e-4)
            assert one.margin_after < 0 < one.margin
            assert one.confirmation.became == one.rival != one.predicted
            assert len(set(one.indices)) == one.size
            assert "Retraining confirms the flip" in one.words
    # One that is not found: even the whole ranking does not do it.
    missed = [one for one in confirmed if one.size is None]
    for one in missed:
        assert one.margin_after > 0 and one.confirmation is None and "not predicted" in one.words


def test_newton_needs_no_more_than_first_order():
    model, train, queries, loss = linear_case("softmax")
    influence, _ = fitted(model, train, loss)
    newton = influence.flip(queries, max_size=20)
    first = influence.flip(queries, max_size=20, order="first")
    assert first.order == "first"
    pairs = [(a.size, b.size) for a, b in zip(newton, first) if b.size is not None]
    assert pairs and all(a is not None and a <= b for a, b in pairs)
    assert [one.first_size for one in newton] == [one.size for one in first]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_refits_are_the_optima_without_each_set(reduction):
    model, train, _, loss = linear_case("softmax")
    influence, _ = fitted(model, train, loss, reduction=reduction)
    refits = LinearRefits(influence, reduction)
    kept = torch.ones(3, 70, dtype=torch.bool)
    for row, gone in enumerate([[0], [3, 5, 9], list(range(10, 30))]):
        kept[row, gone] = False
    theta, reached = refits.refit(kept, refits.start.expand(3, -1, -1))
    assert bool(reached.all())
    for row in range(3):
        divide = 70 if reduction == "sum" else None
        recipe = wherefrom.FullBatch(model, loss=loss, weight_decay=0.02, divide_by=divide)
        truth = recipe((train[0][kept[row]], train[1][kept[row]]), 0)
        expected = torch.cat([truth.weight, truth.bias[:, None]], dim=1).detach()
        torch.testing.assert_close(theta[row], expected, atol=1e-5, rtol=1e-4)


def test_an_iterative_solver_and_float32_find_the_same_sets():
    model, train, queries, loss = linear_case("softmax")
    influence, _ = fitted(model, train, loss)
    queries = (queries[0][:5], queries[1][:5])
    sizes = [one.size for one in influence.flip(queries, max_size=8)]
    other, _ = fitted(model, train, loss, solver="cg", dtype=torch.float32)
    assert [one.size for one in other.flip(queries, max_size=8)] == sizes


def test_greedy_takes_the_smallest_prefix_and_leaves_each_class_an_example():
    scores = torch.tensor([[3.0, -8.0, -4.0, -2.0, 1.0]], dtype=F64)
    margins, rival = torch.tensor([2.0], dtype=F64), torch.tensor([1])
    found = greedy(scores, margins, rival, None, 4, "sum")  # 2 − 8/5 > 0 > 2 − 12/5
    assert found.size.tolist() == [2] and found.order[0, :2].tolist() == [1, 2]
    assert found.after.tolist() == pytest.approx([2 - 12 / 5])
    mean = greedy(scores, margins, rival, None, 4, "mean")  # 2 + (−8 + 2)/4 = 0.5, 2 + (−12 + 4)/3 < 0
    assert mean.size.tolist() == [2] and mean.after.tolist() == pytest.approx([2 - 8 / 3])
    # Example 1 is the last of its class: others go in its stead.
    held = greedy(scores, margins, rival, class_codes(torch.tensor([5, 7, 5, 5, 5])), 3, "sum")
    assert held.size.tolist() == [0] and held.order.tolist() == [[2, 3, 4, 0, 1]]
    assert greedy(scores, margins, rival, None, 1, "sum").size.tolist() == [0]


def test_the_rarest_class_keeps_an_example():
    x, y = blobs(60, 3, 2)
    y[:] = 0
    y[:2] = 1
    influence, recipe = fitted(nn.Linear(3, 2), (x, y), "cross_entropy")
    flips = influence.flip((x[:6], y[:6]), max_size=30).confirm(recipe)
    assert all(set(one.ranking) & {0, 1} != {0, 1} for one in flips)


def network():
    x, y = blobs(60, 3, 2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    return model, (x[:48], y[:48]), (x[48:], y[48:])


def test_a_network_is_ranked_to_first_order_and_confirmed_by_retraining():
    model, train, queries = network()
    influence, recipe = fitted(model, train, "cross_entropy", 0.02, damping=1e-3)
    recipe = wherefrom.FullBatch(influence.objective.model, loss="cross_entropy", weight_decay=0.02)
    flips = influence.flip(queries, max_size=12)
    assert flips.order == "first"
    confirmed = flips.confirm(recipe, retrainings=4)
    checked = [one for one in confirmed if one.confirmation is not None]
    assert checked and any(one.confirmed_size for one in checked)
    for one in checked:
        check = one.confirmation
        assert len(check.tried) <= 4 and list(check.tried) == sorted(set(check.tried))
        assert check.tried[0] == one.size and check.size in (None, check.tried[-1])
        if check.size is not None:
            gone = set(one.indices)
            assert len(gone) == check.size
            kept = torch.tensor([i for i in range(48) if i not in gone])
            again = recipe((train[0][kept], train[1][kept]), 0)
            label = int(again(queries[0][one.query : one.query + 1]).argmax())
            assert label == check.became != one.predicted
    table = confirmed.to_pandas()
    assert list(table["query"]) == list(range(12)) and "confirmed_size" in table


def test_scores_of_a_layerwise_solver_serve_too():
    model, train, queries = network()
    influence, _ = fitted(model, train, "cross_entropy", 0.02, solver="ekfac")
    assert len(influence.flip(queries)) == 12


def test_a_set_that_fails_is_enlarged_and_a_run_that_fails_is_reported(tmp_path):
    model, train, queries, loss = linear_case("binary")
    influence, recipe = fitted(model, train, loss, run_dir=tmp_path)
    target = next(one for one in influence.flip(queries, max_size=20) if 3 <= (one.size or 0) <= 8)

    class Stubborn:
        def __init__(self):
            self.calls = []

        def settings(self):
            return {"stubborn": True}

        def __call__(self, data, seed):
            self.calls.append(70 - len(data[0]))
            if self.calls[-1] == target.size:  # as if the smallest set had not sufficed
                return recipe(train, seed)
            return recipe(data, seed)

    stubborn = Stubborn()
    only = (queries[0][target.query : target.query + 1], queries[1][target.query : target.query + 1])
    flips = influence.flip(only, max_size=20)
    (grown,) = flips.confirm(stubborn)
    larger = -(-target.size * 3 // 2)
    assert stubborn.calls == [0, 0, target.size, larger]
    assert grown.size == target.size and grown.confirmed_size == larger == len(grown.indices)
    assert f"Retraining needed {larger}" in grown.words
    flips.confirm(stubborn)
    assert len(stubborn.calls) == 4  # read from the run directory
    influence.flip(queries, max_size=20).confirm(stubborn)  # which keeps those of other queries beside them
    assert len(stubborn.calls) > 4

    def unwilling(data, seed):
        if len(data[0]) < 70:
            raise ConvergenceError("gave up")
        return recipe(data, seed)

    fresh, _ = fitted(model, train, loss)
    (lost,) = fresh.flip(only, max_size=20).confirm(unwilling)
    assert lost.confirmed_size is None and set(lost.confirmation.failed.values()) == {"gave up"}
    assert "No retraining without it converged" in lost.words

    def other(data, seed):
        made = recipe(data, seed)
        made.weight.data.neg_()
        made.bias.data.neg_()
        return made

    (unstable,) = fresh.flip(only, max_size=20).confirm(other)
    assert unstable.confirmed_size is None and not unstable.confirmation.stable
    assert "not counted" in unstable.words


def test_a_flip_within_the_noise_of_training_is_not_counted():
    model, train, queries, loss = linear_case("binary")
    influence, recipe = fitted(model, train, loss)
    target = next(one for one in influence.flip(queries, max_size=20) if one.size)
    only = (queries[0][target.query : target.query + 1], queries[1][target.query : target.query + 1])

    def noisy(data, seed, size=10.0):
        made = recipe(data, seed)
        if seed:  # away from the boundary, so that the label stays
            with torch.no_grad():
                made.bias += size * made(only[0]).sign().reshape(-1)[0]
        return made

    (hidden,) = influence.flip(only, max_size=20).confirm(noisy)
    check = hidden.confirmation
    assert check.hidden and check.stable and hidden.confirmed_size is None and check.noise > 5
    assert "cannot tell whether they did it" in hidden.words and hidden.row()["hidden"] is True
    (clear,) = influence.flip(only, max_size=20).confirm(functools.partial(noisy, size=1e-6))
    assert not clear.confirmation.hidden and clear.confirmed_size == target.size

    def once(data, seed):
        if seed:
            raise ConvergenceError("not with this seed")
        return recipe(data, seed)

    (unknown,) = influence.flip(only, max_size=20).confirm(once)
    assert unknown.confirmed_size is None and "noise of training is not known" in unknown.words


def test_robustness_counts_predictions_that_fall():
    def one(size: int | None, confirmed: int | None, asked: bool = True) -> FlipSet:
        check = Confirmation(confirmed, -0.1, 1, (size,)) if asked and size is not None else None
        return FlipSet(0, 0, 1, tuple(range(100)), size, size, 1.0, -0.1, 1000, confirmation=check)

    sets = [one(1, 1), one(5, 8), one(10, None), one(None, None)]
    found = Robustness.of(sets, (0.001, 0.005, 0.01), 1000)
    assert found.predicted == (0.25, 0.5, 0.75) and found.confirmed == (0.25, 0.25, 0.5)
    assert "75 % of 4" in found.words and "confirms it for 50 %" in found.words
    assert list(found.to_pandas()["examples"]) == [1, 5, 10]
    unasked = Robustness.of([one(3, None, asked=False)], (0.003,), 1000)
    assert unasked.predicted == (1.0,) and unasked.confirmed is None and "not asked" in unasked.words
    for shares in ((), (0.0,), (1.5,)):
        with pytest.raises(InputError, match="shares"):
            Robustness.of(sets, shares, 1000)


def test_the_share_asked_about_must_have_been_looked_for():
    model, train, queries, loss = linear_case("binary")
    influence, _ = fitted(model, train, loss)
    flips = influence.flip(queries, max_size=3)
    assert len(flips.robustness((0.01, 0.05)).predicted) == 2
    with pytest.raises(InputError, match="max_size=7"):
        flips.robustness((0.1,))
    assert "of 12 predictions" in repr(flips)


def test_names_of_classes_in_words():
    found = FlipSet(0, 0, 1, (4, 2), 2, 3, 1.0, -0.1, 50)
    assert "from ham to spam" in found.describe(["ham", "spam"]) and "from 0 to 1" in found.words
    signed = FlipSet(0, 1, -1, (4, 2), 2, 3, 1.0, -0.1, 50)
    assert "from spam to ham" in signed.describe(["ham", "spam"]) and "from 1 to -1" in signed.words
    assert found.indices == (4, 2) and found.share == 0.04 and found.row()["first_size"] == 3


def test_what_cannot_be_flipped_is_refused():
    model, train, queries, loss = linear_case("binary")
    influence, recipe = fitted(model, train, loss)
    for wrong, words in (
        ({"max_size": 0}, "max_size=0"),
        ({"max_size": 70}, "max_size=70"),
        ({"max_size": 2.5}, "max_size=2.5"),
        ({"rivals": 0}, "rivals=0"),
        ({"rivals": True}, "rivals=True"),
        ({"order": "third"}, "order='third'"),
        ({"reduction": "max"}, "reduction='max'"),
    ):
        with pytest.raises(InputError, match=words), as_a_user():
            influence.flip(queries, **wrong)
    flips = influence.flip(queries)
    with pytest.raises(InputError, match="retrainings=0"):
        flips.confirm(recipe, retrainings=0)
    with pytest.raises(InputError, match="recipe=3"), as_a_user():
        flips.confirm(3)

    def never(data, seed):
        raise ConvergenceError("gave up")

    with pytest.raises(ConvergenceError, match="on the full training set"):
        flips.confirm(never)
    x, y = train
    regression, _ = fitted(nn.Linear(4, 1), (x, y), "squared_error")
    with pytest.raises(UnsupportedError, match="predicts no class"):
        regression.flip((x[:2], y[:2]))
    labels = torch.stack([y, 1 - y], dim=1)
    several, _ = fitted(nn.Linear(4, 2), (x, labels), "binary_cross_entropy")
    with pytest.raises(UnsupportedError, match="one per query"):
        several.flip((x[:2], labels[:2]))
    net, data, asked = network()
    nonlinear, _ = fitted(net, data, "cross_entropy", damping=1e-3)
    with pytest.raises(UnsupportedError, match="not affine"):
        nonlinear.flip(asked, order="newton")
    alone = wherefrom.Influence(
        nn.Linear(4, 1).double(), (x[:1], y[:1]), loss=loss, weight_decay=0.1, progress=False
    ).fit()
    with pytest.raises(InputError, match="1 example"):
        alone.flip(queries)
