"""Groups as users give them, and every way to give them wrongly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wherefrom.errors import InputError
from wherefrom.studies.slices import resolve_groups


def members(groups) -> dict[str, list[int]]:
    return {name: part.tolist() for name, part in zip(groups.names, groups.members)}


@given(st.lists(st.sampled_from(["b", "a", "10", "9"]), min_size=1, max_size=30))
def test_names_part_the_examples(names):
    groups = resolve_groups(names, len(names), "train_groups")
    found = members(groups)
    assert sorted(i for part in found.values() for i in part) == list(range(len(names)))
    assert all(names[i] == name for name, part in found.items() for i in part)
    assert list(found) == sorted(found, key=["9", "10", "a", "b"].index)
    assert groups.counts.tolist() == [names.count(name) for name in found]


@pytest.mark.parametrize(
    "values",
    [[1, 0, 1], np.array([1, 0, 1]), torch.tensor([1, 0, 1]), ("1", "0", "1")],
    ids=["list", "array", "tensor", "text"],
)
def test_names_of_any_kind_become_text(values):
    assert members(resolve_groups(values, 3, "g")) == {"0": [1], "1": [0, 2]}


def test_a_pandas_column_is_a_list_of_names():
    pandas = pytest.importorskip("pandas")
    assert members(resolve_groups(pandas.Series(["x", "y", "x"]), 3, "g")) == {"x": [0, 2], "y": [1]}


def test_sets_may_overlap_and_leave_examples_out():
    groups = resolve_groups(
        {"young": [2, 0], "women": np.array([True, False, False, False])}, 4, "train_groups"
    )
    assert members(groups) == {"young": [0, 2], "women": [0]}
    assert groups.names_of(0) == ("young", "women") and groups.names_of(3) == ()
    assert groups.number("women") == 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"], r"g names 2 examples, but there are 3; expected one group name per example"),
        ("abc", "g is a str; expected one group name per example, or a mapping"),
        (7, "g is a int; expected one group name per example"),
        (["a", None, "b"], "g: example 1 is None; expected a group name"),
        ([1.0, float("nan"), 2.0], "g: example 1 is nan"),
        (["a", ["b"], "c"], "g: example 1 is a list; expected a string, an integer or a boolean"),
        ({}, "g is an empty mapping"),
        ({"a": []}, r"g\['a'\] is empty: every group needs at least one example"),
        ({"a": np.zeros(3, dtype=bool)}, r"g\['a'\] is empty"),
        ({"a": np.ones(2, dtype=bool)}, r"g\['a'\] is a mask of length 2; expected 3"),
        ({"a": [0, 3]}, r"g\['a'\]: indices: 3 is outside the training set|g\['a'\]: .*3 is outside"),
        ({"a": [0, 0]}, r"g\['a'\]: .*named twice"),
        ({"a": [0.5]}, r"g\['a'\]: .*expected integers"),
        ({1: [0], "1": [1]}, "g: two groups are named '1'"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_a_group(groups, message):
    with pytest.raises(InputError, match=message):
        resolve_groups(groups, 3, "g")


def test_an_unknown_group_is_answered_with_the_known_ones():
    groups = resolve_groups(["a", "b"], 2, "query_groups")
    with pytest.raises(InputError, match="query_groups has no group 'c'; expected one of 'a', 'b'"):
        groups.number("c")
    many = resolve_groups(list(range(20)), 20, "query_groups")
    with pytest.raises(InputError, match=r"'7', … \(20 groups\)"):
        many.number(99)
