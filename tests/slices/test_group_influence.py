"""Slices against sums of dense float64 scores, against other solvers, and against real retraining."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wherefrom
from tests.support import Plain, as_a_user, class_margin, digits, small_mlp, softmax_regression
from wherefrom import CG, EKFAC, Exact, Influence, LiSSA
from wherefrom.errors import InputError, OutOfMemoryError
from wherefrom.influence import room
from wherefrom.studies.slices import ALL_QUERIES, group_influence

DAMPING = 0.05


@functools.lru_cache
def convex() -> Plain:
    return softmax_regression(80, classes=3, decay=0.05)


@functools.lru_cache
def network() -> Plain:
    return small_mlp()


def queries(count: int = 9) -> tuple[Tensor, Tensor]:
    return digits(count, start=300, classes=3, pool=2)


def fitted(plain: Plain, **options):
    options = {"loss": "cross_entropy", "weight_decay": float(plain.decay[0]), **options}
    return Influence(plain.model, (plain.x, plain.y), progress=False, **options).fit()


def train_names(plain: Plain) -> list[str]:
    return [f"class {int(y)}" for y in plain.y]


def query_names(count: int = 9) -> list[str]:
    return ["even" if i % 2 == 0 else "odd" for i in range(count)]


def dense_table(plain: Plain, matrix: Tensor, damping: float, measure=None) -> Tensor:
    """Predicted changes from per-example gradients one by one and a dense inverse."""
    scores = plain.scores(queries(), matrix, damping, measure)
    t, q = train_names(plain), query_names()
    rows = [torch.tensor([name == group for name in t]) for group in sorted(set(t))]
    columns = [torch.tensor([name == group for name in q]) for group in sorted(set(q))]
    return (
        torch.stack([torch.stack([scores[c][:, r].sum(1).mean() for c in columns]) for r in rows]) / plain.n
    )


@pytest.mark.parametrize(
    ("plain", "curvature"), [(convex, "hessian"), (network, "ggn")], ids=["linear head", "network"]
)
@pytest.mark.parametrize("solver", [Exact(), CG(rtol=1e-10)], ids=["exact", "cg"])
def test_the_table_is_the_sum_of_dense_scores(plain, curvature, solver):
    plain = plain()
    model = fitted(plain, curvature=curvature, solver=solver, damping=DAMPING)
    table = group_influence(model, queries(), train_names(plain), query_names())
    expected = dense_table(plain, plain.curvature(curvature), DAMPING)
    error = (table.change - expected).abs()
    assert float(error.max()) < 1e-8 * float(expected.abs().max())
    assert bool((error <= table.bound + 1e-18).all())
    assert table.converged.all() and table.train.names == ("class 0", "class 1", "class 2")


def test_a_margin_is_better_high_and_harm_changes_its_sign():
    plain = convex()
    model = fitted(plain, damping=DAMPING)
    table = group_influence(model, queries(), train_names(plain), query_names(), measurement="margin")
    expected = dense_table(plain, plain.hessian(), DAMPING, class_margin)
    torch.testing.assert_close(table.change, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(table.harm, table.scores / plain.n)
    worst = table.train.number(table.carriers("odd")[0])
    assert int(table.change[:, table.queries.number("odd")].argmax()) == worst


def test_scores_of_single_examples_add_up_and_agree_with_the_matrix_of_scores():
    plain = convex()
    influence = Influence(
        plain.model, (plain.x, plain.y), loss="cross_entropy", weight_decay=0.05, progress=False
    ).fit()
    table = group_influence(influence, queries(), train_names(plain), query_names())
    scores = influence.scores(queries()).values
    odd = torch.tensor([name == "odd" for name in query_names()])
    torch.testing.assert_close(table.scores[:, 1], scores[odd].mean(0), rtol=1e-9, atol=1e-13)
    for t, part in enumerate(table.train.members):
        torch.testing.assert_close(
            table.change[t, 1], table.scores[part, 1].sum() / plain.n, rtol=1e-9, atol=1e-13
        )


def test_standard_errors_are_those_of_the_changes_of_single_queries():
    plain = convex()
    model = fitted(plain, damping=DAMPING)
    table = group_influence(model, queries(), train_names(plain), ["even"] * 8 + ["alone"])
    scores = plain.scores(queries(), plain.hessian(), DAMPING)
    for t, part in enumerate(table.train.members):
        each = scores[:8][:, part].sum(1) / plain.n
        expected = float(each.std()) / 8**0.5
        assert float(table.standard_error[t, table.queries.number("even")]) == pytest.approx(expected)
    assert torch.isinf(table.standard_error[:, table.queries.number("alone")]).all()
    assert table.to_pandas().standard_error.isna().sum() == 3


def test_all_groups_together_undo_the_regulariser():
    """At a minimum `(1/n) Σ g_i = −∇R`, so the changes of a partition add up to `−∇m̄ᵀ H⁻¹ ∇R`."""
    plain = convex()
    table = group_influence(fitted(plain, damping=0.0), queries(), train_names(plain))
    mean = plain.gradients(queries()).mean(0)
    expected = -mean @ torch.linalg.solve(plain.hessian(), plain.decay * plain.theta)
    assert float(table.change.sum()) == pytest.approx(float(expected), rel=1e-7)
    assert table.queries.names == (ALL_QUERIES,)
    assert float(table.share_of_harm.sum()) == pytest.approx(1.0)
    assert float(table.measured[0]) == pytest.approx(float(plain.losses(plain.theta, queries()).mean()))


def test_retraining_without_a_small_group_changes_the_mean_loss_as_predicted():
    """The error of first order falls with the square of the group's size."""
    plain = convex()
    errors = []
    for size in (1, 2, 4):
        groups = {"removed": range(size)}
        table = group_influence(fitted(plain, damping=0.0), queries(), groups, query_names())
        weights = torch.full((plain.n,), 1 / plain.n, dtype=torch.float64)
        weights[:size] = 0
        theta = plain.minimise(weights)
        actual = plain.losses(theta, queries()) - plain.losses(plain.theta, queries())
        odd = torch.tensor([name == "odd" for name in query_names()])
        actual = torch.stack([actual[~odd].mean(), actual[odd].mean()])
        predicted = table.change[0]
        errors.append(float((predicted - actual).norm()))
        assert errors[-1] < 0.25 * float(actual.norm())
        # Half the weight removed: a quarter of the error.
        half = torch.where(weights == 0, 0.5 / plain.n, weights)
        theta = plain.minimise(half)
        moved = plain.losses(theta, queries()) - plain.losses(plain.theta, queries())
        moved = torch.stack([moved[~odd].mean(), moved[odd].mean()])
        assert float((predicted / 2 - moved).norm()) < 0.35 * errors[-1]


def test_ekfac_gives_the_sum_of_its_own_scores_with_an_error_that_covers_the_full_curvature():
    plain = network()
    influence = Influence(
        plain.model,
        (plain.x, plain.y),
        loss="cross_entropy",
        weight_decay=float(plain.decay[0]),
        curvature="ggn",
        damping=DAMPING,
        solver=EKFAC("exact", score_rtol=0.0),
        progress=False,
    ).fit()
    table = group_influence(influence, queries(), train_names(plain), query_names())
    scores = influence.scores(queries()).values
    even = torch.tensor([name == "even" for name in query_names()])
    torch.testing.assert_close(table.scores[:, 0], scores[even].mean(0), rtol=1e-7, atol=1e-9)
    full = dense_table(plain, plain.ggn(), DAMPING)
    missed = (table.change - full).abs()
    assert float(missed.max()) > 0 and not torch.isfinite(table.bound).any()
    assert float((table.error - missed).norm()) < 0.5 * float(missed.norm())


def test_without_probes_the_error_is_unknown_and_said_to_be():
    plain = network()
    model = fitted(plain, curvature="ggn", damping=DAMPING, solver=EKFAC("exact", probes=0))
    table = group_influence(model, queries(), train_names(plain))
    assert torch.isinf(table.error).all()
    assert "unknown" in repr(table.harmful(k=2))


@pytest.mark.slow
def test_the_spread_of_lissa_is_carried_to_the_groups():
    plain = convex()
    solver = LiSSA(repeats=4, batch_size=8, depth=400)
    model = fitted(plain, damping=DAMPING, solver=solver)
    table = group_influence(model, queries(), train_names(plain), query_names())
    truth = dense_table(plain, plain.hessian(), DAMPING)
    error = (table.change - truth).abs()
    assert float((error / table.error).square().mean().sqrt()) < 4
    assert float(table.error.min()) > 0


def test_many_query_groups_are_solved_in_blocks(monkeypatch):
    plain = convex()
    model = fitted(plain, damping=DAMPING)
    whole = group_influence(model, queries(), train_names(plain), list(range(9)))
    monkeypatch.setattr(type(model.pairing), "block_size", lambda self: 2)
    parts = group_influence(model, queries(), train_names(plain), list(range(9)))
    torch.testing.assert_close(parts.change, whole.change, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-9, atol=1e-14)


def test_rankings_name_the_examples_and_their_groups():
    plain = convex()
    table = group_influence(fitted(plain), queries(), {"first": range(40), "low": range(20)}, query_names())
    harmful, helpful = table.harmful("odd", k=80), table.helpful("odd", k=3)
    assert np.all(np.diff(harmful.score) >= 0) and len(helpful) == 3
    assert helpful.train.tolist() == harmful.train[::-1][:3].tolist()
    names = dict(zip(harmful.train.tolist(), harmful.train_group))
    assert names[0] == "first, low" and names[30] == "first" and names[79] == ""
    rows = list(harmful)
    assert rows[0]["change"] == pytest.approx(rows[0]["score"] / plain.n)
    assert "most harmful training examples for odd" in repr(harmful)
    assert len(table.harmful("even", k=1).to_pandas()) == 1


def test_tables_as_rows_and_as_a_data_frame():
    plain = convex()
    table = group_influence(fitted(plain), queries(), train_names(plain), query_names())
    frame = table.to_pandas()
    assert len(frame) == 6 and (frame.train_count * frame.per_example).tolist() == pytest.approx(
        frame.change.tolist()
    )
    assert float(frame.share_of_train.sum()) == pytest.approx(2.0)
    assert frame.groupby("query_group").share_of_harm.sum().tolist() == pytest.approx([1.0, 1.0])
    assert "even: loss" in repr(table) and "3 training groups × 2 query groups" in repr(table)
    many = group_influence(fitted(plain), queries(), train_names(plain), list(range(9)))
    assert "and 1 more query groups" in repr(many)


def test_bad_questions():
    plain = convex()
    model = fitted(plain)
    with pytest.raises(InputError, match="train_groups names 3 examples, but there are 80"):
        group_influence(model, queries(), ["a", "b", "c"])
    with pytest.raises(InputError, match="query_groups names 2 examples, but there are 9"):
        group_influence(model, queries(), train_names(plain), ["a", "b"])
    table = group_influence(model, queries(), train_names(plain), query_names())
    with pytest.raises(InputError, match="has no group 'none'; expected one of 'even', 'odd'"):
        table.harmful("none")
    with pytest.raises(InputError, match="there are 2 query groups; name one of 'even', 'odd'"):
        table.carriers()
    with pytest.raises(InputError, match="k=0: expected a whole number of at least 1"):
        table.harmful("odd", k=0)
    with as_a_user(), pytest.raises(InputError, match="measurement="):
        group_influence(model, queries(), train_names(plain), measurement="speed")


def test_a_table_that_does_not_fit_is_refused(monkeypatch):
    plain = convex()
    monkeypatch.setattr(room, "available_memory", lambda device: 100)
    with pytest.raises(OutOfMemoryError, match="Use fewer, larger query groups"):
        group_influence(fitted(plain), queries(), train_names(plain))


def test_queries_without_a_gradient_are_harmed_by_nobody():
    plain = convex()
    model = fitted(plain, damping=DAMPING)

    def nothing(outputs, targets):
        return 0.0 * outputs.sum(1)

    table = group_influence(model, queries(), train_names(plain), measurement=nothing)
    assert float(table.change.abs().max()) == 0.0 and float(table.share_of_harm.abs().max()) == 0.0
    assert not math.isnan(float(table.error.sum()))


def test_a_change_that_would_make_a_loss_negative_is_not_resolved():
    """As where first order does not carry: twenty times the changes of a real table."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x[:, 0] > 0.3).long()
    recipe = wherefrom.FullBatch(nn.Linear(4, 2), loss="cross_entropy", weight_decay=1e-2)
    influence = wherefrom.Influence(
        recipe((x, y), 0), (x, y), loss="cross_entropy", weight_decay=1e-2, progress=False
    ).fit()
    table = influence.slices((x[30:], y[30:]), y.tolist(), y[30:].tolist())
    assert any(row["resolved"] for row in table)
    table = dataclasses.replace(table, change=20 * table.change)
    rows = list(table)
    impossible = [row for row in rows if row["measured"] + row["change"] < 0]
    assert impossible and all("negative loss" in row["reason"] for row in impossible)
    for row in rows:
        enough = abs(row["change"]) > row["error"] + 2 * row["standard_error"]
        possible = row["measured"] + row["change"] >= 0 and abs(row["change"]) <= row["measured"]
        assert row["resolved"] == (enough and possible) == (row["reason"] == "")
    assert set(table.to_pandas()["resolved"]) == {row["resolved"] for row in rows}
