"""The training set keeps its form when examples are dropped, exchanged, repeated or added."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from wherefrom.errors import InputError
from wherefrom.task import Data, inputs_of, target_of, with_inputs, with_target

X, Y = torch.arange(10.0).view(5, 2), torch.arange(5)


class Squares(Dataset):
    """Items made on demand."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[float, int]:
        return float(i * i), i


def test_columns_lose_rows_and_keep_their_form():
    assert Data(Y, 5).edited(drop=[1, 3]).tolist() == [0, 2, 4]
    left = Data((X, Y), 5).edited(drop=[0])
    assert isinstance(left, tuple) and left[1].tolist() == [1, 2, 3, 4] and left[0].shape == (4, 2)
    named = Data({"x": X.numpy(), "y": Y}, 5).edited(drop=[4])
    assert isinstance(named["x"], np.ndarray) and named["x"].shape == (4, 2)
    assert named["y"].tolist() == [0, 1, 2, 3]
    made = Data(TensorDataset(X, Y), 5).edited(drop=[2])
    assert isinstance(made, TensorDataset) and made.tensors[1].tolist() == [0, 1, 3, 4]


def test_sequences_and_data_sets_lose_items():
    items = [("a", 0), ("b", 1), ("c", 0)]
    assert Data(items, 3).edited(drop=[1]) == [("a", 0), ("c", 0)]
    assert Data(tuple(items), 3).edited(drop=[1]) == (("a", 0), ("c", 0))
    left = Data(Squares(), 4).edited(drop=[2])
    assert [left[i] for i in range(len(left))] == [(0.0, 0), (1.0, 1), (9.0, 3)]
    assert left[-1] == (9.0, 3)
    with pytest.raises(IndexError):
        left[3]


def test_items_are_exchanged_repeated_and_added_in_order():
    data = Data((X, Y), 5)
    made = data.edited(
        drop=[0], replace={2: (torch.tensor([7.0, 7.0]), 9)}, repeat={1: 2, 2: 2}, add=[data.item(4)]
    )
    assert made[1].tolist() == [1, 1, 9, 9, 3, 4, 4]
    assert made[0][2].tolist() == [7.0, 7.0] and made[0][-1].tolist() == [8.0, 9.0]
    assert Y.tolist() == [0, 1, 2, 3, 4] and float(X.sum()) == 45.0  # what was given is not written to
    items = Data([("a", 0), ("b", 1)], 2).edited(replace={0: ("c", 5)}, add=[("d", 6)])
    assert items == [("c", 5), ("b", 1), ("d", 6)]
    lazily = Data(Squares(), 4).edited(replace={3: (0.5, 8)}, add=[(2.0, 2)])
    assert [lazily[i] for i in (3, 4)] == [(0.5, 8), (2.0, 2)]


@given(st.lists(st.booleans(), min_size=5, max_size=5), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_columns_and_items_agree(gone, times):
    """The two ways of holding a data set give the same examples."""
    items = [(x, int(y)) for x, y in zip(X, Y)]
    drop = [i for i, out in enumerate(gone) if out]
    repeat = dict(enumerate(times))
    replace = {1: (torch.tensor([-1.0, -1.0]), 11)}
    one = Data((X, Y), 5).edited(drop=drop, repeat=repeat, replace=replace)
    other = Data(items, 5).edited(drop=drop, repeat=repeat, replace=replace)
    assert one[1].tolist() == [y for _, y in other]


def test_stacked_items_have_the_form_of_the_set():
    data = Data((X, Y), 5)
    made = data.stack([data.item(3), data.item(1)])
    assert made[1].tolist() == [3, 1]
    assert Data([("a", 0)], 1).stack([("b", 2)]) == [("b", 2)]
    with pytest.raises(InputError, match="items is empty"):
        data.stack([])
    with pytest.raises(InputError, match=r"does not have the form.*found shape"):
        data.stack([(torch.ones(3), 0)])
    with pytest.raises(InputError, match="does not have the form"):
        data.stack([{"x": torch.ones(2)}])


def test_targets_and_inputs_of_an_item():
    pair = (X[0], Y[0])
    assert int(target_of(with_target(pair, 3))) == 3 and torch.equal(with_target(pair, 3)[0], X[0])
    assert with_target({"x": 1, "label": 2}, 7) == {"x": 1, "label": 7}
    assert torch.equal(inputs_of(with_inputs(pair, [5, 6])), torch.tensor([5.0, 6.0]))
    assert with_inputs(("text", 1), "other") == ("other", 1)
    array = with_inputs((np.zeros((2, 2), np.float32), np.int64(1)), np.ones(4))
    assert array[0].shape == (2, 2) and array[0].dtype == np.float32
    assert isinstance(with_target(array, 0)[1], np.int64)
    assert int(with_target(pair, 3.0)[1]) == 3 and with_target(("text", 1), torch.tensor(2.0))[1] == 2
    assert Data(()).n == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: with_target(torch.ones(3), 1), "so that its target can be changed"),
        (lambda: with_target({"a": 1, "y": 2, "label": 3}, 1), "exactly one of"),
        (lambda: with_inputs({"x": 1}, 2), r"expected a pair.*with replace\(indices, examples\)"),
        (lambda: with_inputs((X[0], Y[0]), torch.ones(3)), r"input: found shape \(3,\), expected \(2,\)"),
        (lambda: with_target((X[0], Y[0]), [1, 2]), r"^target: found shape \(2,\), expected \(\)"),
        (lambda: with_target((X[0], Y[0]), 1.5), r"target=1\.5: torch\.int64 cannot hold"),
        (lambda: with_target((X[0], Y[0]), float("nan")), r"target=nan: torch\.int64 cannot hold"),
        (lambda: with_target((X[0], Y[0]), "cat"), "target='cat'"),
        (lambda: with_target((X[0], Y[0]), None), "target=None"),
        (lambda: with_target(("text", 1), 1.5), r"target=1\.5: int cannot hold it"),
        (lambda: with_target(("text", 1), "cat"), "target='cat'"),
        (lambda: with_target((np.ones(2), np.int64(1)), 1.5), r"target=1\.5: int64 cannot hold"),
        (lambda: Data((X, Y), 5).stack([(X[0], 1.5)]), "int64 cannot hold"),
        (lambda: Data((X.numpy(), Y.numpy()), 5).stack([(X[0], 1.5)]), "int64 cannot hold"),
        (lambda: Data((X, Y[:4])), r"shapes \(5, 2\), \(4,\); expected one first dimension"),
        (lambda: Data((X[0], Y[0])), r"A single example goes into a list"),
        (lambda: Data(5), "examples are a int; expected columns"),
    ],
)
def test_items_of_another_form_are_refused_and_none_is_rounded(call, message):
    with pytest.raises(InputError, match=message):
        call()
