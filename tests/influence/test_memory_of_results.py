"""What is returned counts too: said, with the numbers, before it is computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wherefrom
from wherefrom.errors import OutOfMemoryError
from wherefrom.influence import room


def problem(n: int = 50) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(n, 3)
    return nn.Linear(3, 2), (x, (x[:, 0] > 0).long())


def fit(**options) -> wherefrom.Influence:
    model, data = problem()
    return wherefrom.Influence(
        model, data, loss="cross_entropy", damping=0.1, progress=False, **options
    ).fit()


@pytest.mark.parametrize("solver", ["exact", "ekfac"])
def test_results_beyond_a_stated_budget_are_refused_with_what_would_fit(solver):
    queries = problem(20)[1]
    # 50 training examples × 3 numbers × 4 bytes a query
    influence = fit(memory="10kB", solver=solver)
    with pytest.raises(
        OutOfMemoryError,
        match=r"20 queries × 50 .* at most 16 queries at a time \(score_parts does that\).*memory=",
    ):
        influence.scores(queries)
    some = influence.scores((queries[0][:16], queries[1][:16]))
    assert some.values.shape == (16, 50)
    assert fit(solver=solver).scores(queries).values.shape == (20, 50)  # not stated: what is free counts


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("solver", ["exact", "ekfac"])
def test_parts_of_the_queries_are_the_whole(solver, as_list):
    x, y = problem(20)[1]
    queries = list(zip(x, y)) if as_list else (x, y)
    whole = fit(solver=solver).scores(queries)
    parts = list(fit(memory="10kB", solver=solver).score_parts(queries, "loss"))
    assert [part for part, _ in parts] == [range(16), range(16, 20)]
    together = torch.cat([scores.values for _, scores in parts])
    torch.testing.assert_close(together, whole.values, rtol=1e-4, atol=1e-5)


def test_a_budget_below_a_single_query_says_so():
    with pytest.raises(OutOfMemoryError, match="Attribute to a part of the training set"):
        fit(memory=500).scores(problem(1)[1])


def test_what_is_free_counts_without_a_budget(monkeypatch):
    influence = fit()
    monkeypatch.setattr(room, "available_memory", lambda device: 9_000)
    with pytest.raises(
        OutOfMemoryError, match=r"are free for them\. Pass at most 13 queries at a time \(score_parts"
    ):
        influence.scores(problem(20)[1])


def test_query_groups_count_two_numbers_each():
    influence = fit(memory="1kB")
    queries = problem(6)[1]
    with pytest.raises(OutOfMemoryError, match=r"query groups × 50 .*\(2 numbers each\)"):
        influence.slices(queries, ["a"] * 25 + ["b"] * 25, list("abcdef"))


def test_a_bound_that_is_not_known_takes_no_memory():
    scores = fit(solver="ekfac").scores(problem(4)[1])
    assert scores.bound.shape == scores.values.shape and bool(torch.isinf(scores.bound).all())
    assert scores.bound.untyped_storage().nbytes() == scores.bound.element_size()


def test_a_copy_for_retraining_keeps_that_no_budget_was_stated():
    model, data = problem()
    made = fit().objective
    assert not made.memory_stated and not made.like(model, data).memory_stated
    assert fit(memory="1GB").objective.like(model, data).memory_stated
