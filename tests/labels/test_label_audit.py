"""Ranking, tables, proposals, agreement and the combination, on planted flips; and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from tests.labels.label_problem import flipped_digits, signed_digits
from wherefrom import EKFAC, CrossEntropy, Influence, SquaredError
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.studies.labels import (
    LabelAudit,
    auroc,
    average_precision,
    combine,
    found_fraction,
    has_class_labels,
    label_signals,
)
from wherefrom.studies.labels.agreement import agreement


@functools.lru_cache
def planted():
    return flipped_digits(n=200, classes=4, wrong=20, seed=3)


@functools.lru_cache
def audited() -> LabelAudit:
    given = planted()
    return given.influence().labels(given.validation, class_names=["nil", "one", "two", "three"])


SIGNS = ["combined", "loss", "margin", "left_out_loss", "left_out_margin", "self_influence"]


@pytest.mark.parametrize("sign", SIGNS)
def test_planted_flips_come_out_on_top(sign):
    audit, wrong = audited(), planted().wrong
    assert auroc(audit.suspicion(sign), wrong) > 0.9
    order = audit.order(sign)
    assert found_fraction(order, wrong, [0.2])[0.2] > 0.75
    assert sorted(order.tolist()) == list(range(200))


@pytest.mark.parametrize("sign", ["harm", "relative_harm", "relabel"])
def test_forty_validation_examples_do_better_than_chance(sign):
    assert auroc(audited().suspicion(sign), planted().wrong) > 0.6


def test_proposals_set_the_planted_flips_right():
    audit, given = audited(), planted()
    right = audit.proposed[given.wrong] == given.true[given.wrong]
    assert float(right.double().mean()) > 0.85
    assert audit.most_helpful is not None
    assert torch.equal(audit.most_helpful, audit.relabel_change.argmin(1))


def test_the_table_is_the_ranking():
    audit = audited()
    top = audit.top(5, "harm")
    assert [row.rank for row in top] == [1, 2, 3, 4, 5]
    assert [row.train for row in top] == audit.order("harm")[:5].tolist()
    first = top[0]
    i = first.train
    assert first.suspicion == float(audit.signals["harm"][i]) == first.signals["harm"]
    assert first.given == audit.class_names[int(planted().y[i])]
    assert first.kept == (first.given == first.proposed)
    lines = audit.table(5, "harm").splitlines()
    assert len(lines) == 6 and str(i) in lines[1] and max(map(len, lines)) <= 80
    frame = audit.to_pandas()
    assert list(frame["train"]) == audit.order().tolist()
    assert {"given", "proposed", "predicted", "most_helpful", "combined", *audit.signals} < set(frame.columns)
    assert "200 of 200" in repr(audit)


def test_a_combination_of_ones_own_is_a_mean_of_z_scores():
    audit = audited()
    parts = {"margin": 1.0, "left_out_margin": 1.0, "relative_harm": 0.5}
    expected = sum(
        weight * (audit.signals[name] - audit.signals[name].mean()) / audit.signals[name].std(correction=0)
        for name, weight in parts.items()
    )
    torch.testing.assert_close(combine(audit.signals, parts), expected / 2.5)


def test_a_signal_that_is_the_same_everywhere_counts_as_zero():
    flat = {"margin": torch.full((4,), 0.1), "left_out_margin": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    both = combine(flat, {"margin": 1.0, "left_out_margin": 1.0})
    torch.testing.assert_close(both, combine(flat, {"left_out_margin": 1.0}) / 2)


def test_agreement_is_spearmans_and_the_overlap_of_the_top():
    audit = audited()
    found = audit.agreement(20)
    values = np.stack([values.numpy() for values in audit.signals.values()])
    np.testing.assert_allclose(found.spearman.numpy(), spearmanr(values, axis=1).statistic, atol=1e-12)
    a, b = (set(audit.order(name)[:20].tolist()) for name in ("loss", "harm"))
    at = found.names.index("loss"), found.names.index("harm")
    assert float(found.overlap[at]) == len(a & b) / 20
    assert len(found.to_pandas()) == len(found.names) * (len(found.names) - 1) // 2
    assert max(map(len, repr(found).splitlines())) <= 80
    assert audit.agreement().k == 20
    assert torch.isnan(agreement({"a": torch.arange(3.0), "b": torch.ones(3)}, 1).spearman[0, 1])


def test_without_validation_the_signs_that_need_it_are_left_out():
    audit = label_signals(planted().influence())
    assert not {"harm", "relative_harm", "relabel"} & set(audit.signals)
    assert audit.relabel_change is None and audit.most_helpful is None
    assert audit.settings["validation"] == 0
    assert auroc(audit.combined, planted().wrong) > 0.9
    assert "most_helpful" not in audit.to_pandas()
    with pytest.raises(InputError, match="needs validation="):
        audit.suspicion("harm")


def test_self_scores_that_are_known_are_not_computed_again():
    given = planted()
    influence = given.influence()
    some = influence.self_scores([4, 9, 2])
    audit = influence.labels(self_scores=some)
    assert audit.index.tolist() == [4, 9, 2]
    torch.testing.assert_close(audit.signals["self_influence"], some.values)
    with pytest.raises(InputError, match="both indices and self_scores"):
        influence.labels(self_scores=some, indices=[1])


def test_an_example_without_a_gradient_does_no_relative_harm():
    x, y = torch.zeros(6, 2, dtype=torch.float64), torch.tensor([0, 1] * 3)
    x[:, 0] = torch.tensor([1.0, -1.0] * 3)
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2000.0, 0.0], [-2000.0, 0.0]]))
        model.bias.zero_()
    fitted = Influence(model, (x, y), loss="cross_entropy", weight_decay=0.1, progress=False).fit()
    audit = label_signals(fitted, (x, y))
    assert torch.equal(audit.signals["relative_harm"], torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(audit.signals["left_out_loss"], audit.signals["loss"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"left_out": "guess"}, "left_out='guess'"),
        ({"class_names": ["a", "b"]}, "2 names and the model 4 classes"),
        ({"indices": [200]}, "outside the training set"),
        ({"indices": []}, "indices is empty"),
        ({"validation": (torch.zeros(0, 16), torch.zeros(0, dtype=torch.long))}, "validation is empty"),
        ({"validation": []}, "validation is empty"),
    ],
)
def test_arguments_that_cannot_be_used(change, message):
    with pytest.raises(InputError, match=message):
        label_signals(planted().influence(), **change)


def test_validation_labels_outside_the_classes():
    given = planted()
    labels = given.y_validation.clone()
    labels[7] = 4
    with pytest.raises(InputError, match="4"):
        label_signals(given.influence(), (given.x_validation, labels))


def test_ignored_labels_are_no_classes():
    given = planted()
    y = given.y.clone()
    y[11] = -100
    loss = CrossEntropy()
    fitted = Influence(given.model, (given.x, y), loss=loss, weight_decay=0.02, progress=False).fit()
    with pytest.raises(InputError, match="train: the label of example 11 is -100, outside the classes 0 … 3"):
        label_signals(fitted)
    assert not has_class_labels(fitted.objective)
    assert has_class_labels(given.influence().objective)


def test_losses_without_classes():
    x = torch.randn(12, 3, dtype=torch.float64)
    model = nn.Linear(3, 2).double()

    def fitted(y, loss):
        return Influence(model, (x, y), loss=loss, weight_decay=0.1, progress=False).fit()

    with pytest.raises(UnsupportedError, match="has no classes"):
        label_signals(fitted(torch.zeros(12, 2, dtype=torch.float64), SquaredError()))
    with pytest.raises(UnsupportedError, match="one class index per example"):
        label_signals(fitted(torch.full((12, 2), 0.5, dtype=torch.float64), "cross_entropy"))
    with pytest.raises(UnsupportedError, match="2 labels an example"):
        label_signals(fitted(torch.ones(12, 2, dtype=torch.float64), "binary_cross_entropy"))
    assert not has_class_labels(fitted(torch.zeros(12, 2, dtype=torch.float64), SquaredError()).objective)


def test_an_exact_step_is_not_taken_with_an_approximate_curvature():
    with pytest.raises(InputError, match="approximates the curvature"):
        label_signals(planted().influence(solver=EKFAC()), left_out="exact")


def test_tables_refuse_what_they_cannot_show():
    audit = audited()
    for call in (audit.top, audit.table):
        with pytest.raises(InputError, match="k=0"):
            call(0)
    with pytest.raises(InputError, match="'combined', 'loss'"):
        audit.order("hunch")
    for k in (0, 201):
        with pytest.raises(InputError, match=f"k={k}"):
            audit.agreement(k)
    with pytest.raises(InputError, match="signals is empty"):
        agreement({}, 1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"^weights={}"),
        ({"hunch": 1.0}, r"^weights={'hunch'"),
        ({"loss": -1.0, "harm": 2.0}, r"^weights\['loss'\]=-1\.0: expected a finite number at least 0"),
        ({"loss": 0.0}, r"^weights={'loss': 0\.0}"),
    ],
)
def test_combinations_that_mean_nothing(weights, message):
    with pytest.raises(InputError, match=message):
        combine(audited().signals, weights)


def test_signed_labels_keep_their_names():
    given = signed_digits("logistic")
    audit = label_signals(given.influence(), given.validation)
    assert audit.class_names == ("-1", "1")
    top = audit.top(4)
    assert len({row.train for row in top} & {0, 1, 2, 3}) >= 3  # the planted ones
    assert {row.given for row in top} <= {"-1", "1"}


def test_average_precision_of_a_perfect_and_of_a_reversed_order():
    wrong = np.array([True, True, False, False, False])
    assert (
        average_precision(np.array([5.0, 4, 3, 2, 1]), wrong)
        == 1.0
        == auroc(np.array([5.0, 4, 3, 2, 1]), wrong)
    )
    assert auroc(np.arange(5.0), wrong) == 0.0
    assert average_precision(np.arange(5.0), wrong) == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert found_fraction([0, 2, 1, 3, 4], wrong, [0.2, 0.4, 0.6]) == {0.2: 0.5, 0.4: 0.5, 0.6: 1.0}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: found_fraction([0, 0, 1], [1, 0, 0]), "each number 0 … 2 once"),
        (lambda: found_fraction([0, 1], [1, 0, 0]), "each number 0 … 2 once"),
        (lambda: found_fraction([0, 1, 2], [1, 0, 0], [0.0]), "shares holds 0"),
        (lambda: found_fraction([0, 1, 2], [0, 0, 0]), "0 of 3 labels are wrong"),
        (lambda: auroc([1.0, 2.0], [1, 1]), "2 of 2 labels are wrong"),
        (lambda: auroc([1.0, 2.0, 3.0], [1, 0]), "one number per example"),
        (lambda: average_precision([1.0, float("nan")], [1, 0]), "example 1 is NaN"),
        (lambda: auroc([1.0, 2.0], [2, 0]), "one True or False"),
    ],
)
def test_evaluations_that_mean_nothing(call, message):
    with pytest.raises(InputError, match=message):
        call()
