"""Items that change, that cannot be read, or that are lists of numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.problems import normal, seeded
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.task import Examples
from wherefrom.task.content import content_digest, content_size

N = 400


def read(data, **options) -> Examples:
    given = {"role": "train", "dtype": torch.float64, "device": torch.device("cpu"), "keep_bytes": 2**20}
    return Examples(data, **{**given, **options})


class Random(Dataset):
    """`make(i, generator)`, one generator for all reads."""

    def __init__(self, make, n: int = N):
        self.make, self.n, self.random = make, n, random.Random(0)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int):
        return self.make(i, self.random)


def flipped_half(i, rng):
    x = torch.arange(4.0) + i
    return (x.flip(0) if rng.random() < 0.5 else x), i % 3


class Picture:
    """Read like a picture of PIL: no array, but bytes."""

    def __init__(self, values):
        self.values = values

    def tobytes(self) -> bytes:
        return np.asarray(self.values).tobytes()


def stack(items):
    return torch.stack([torch.tensor([float(len(str(x)))] * 2) for x, _ in items]), torch.tensor(
        [y for _, y in items]
    )


@pytest.mark.parametrize(
    ("make", "collate"),
    [
        (flipped_half, None),
        (lambda i, rng: {"x": torch.tensor([1.0 * i, rng.random() < 0.5]), "label": i % 3}, None),
        (lambda i, rng: (np.array([i, rng.random()]), i % 3), None),
        (lambda i, rng: ([torch.tensor(i), torch.tensor(rng.random())], i % 3), None),
        (lambda i, rng: ("words" if rng.random() < 0.5 else "word", i % 3), stack),
        (lambda i, rng: (Picture([i, int(rng.random() < 0.5)]), i % 3), stack),
    ],
)
def test_random_items_are_found(make, collate):
    with pytest.raises(InputError, match=r"train: example \d+ changes from one read to the next"):
        read(Random(make), collate=collate)


def test_a_change_in_one_read_of_a_hundred_is_found_in_a_large_data_set():
    def rarely(i, rng):
        return np.float64(i + (rng.random() < 0.01)), i % 3

    with pytest.raises(InputError, match=r"train: example \d+ changes from one read to the next"):
        read(Random(rarely, n=8_000))


def test_random_data_sets_are_found_whatever_the_seed():
    found = 0
    for seed in range(30):
        data = Random(flipped_half)
        data.random.seed(seed)
        try:
            read(data)
        except InputError:
            found += 1
    assert found == 30


def test_an_item_that_changes_while_read_on_demand_is_named_wherever_it_is():
    items = [(normal(2 + i % 2, 3, seed=i), i % 3) for i in range(N)]
    made = read(
        items,
        collate=lambda batch: (torch.stack([x.mean(0) for x, _ in batch]), torch.tensor([0] * len(batch))),
        keep_bytes=1,
    )
    for _ in range(2):
        for _ in made.batches(64):
            pass
    items[123][0].mul_(2)
    with pytest.raises(
        InputError, match=r"example 123 changes from one read to the next.*make a new Influence"
    ):
        for _ in made.batches(64):
            pass


def test_an_item_that_cannot_be_read_is_named():
    def fail(i, _):
        if i == 77:
            raise KeyError("lost.png")
        return torch.zeros(2), 0

    with pytest.raises(InputError, match=r"train: reading example 77 raised KeyError: 'lost\.png'") as caught:
        read(Random(fail))
    assert isinstance(caught.value.__cause__, KeyError)


def test_want_of_memory_while_reading_is_no_input_error():
    def fail(i, _):
        raise MemoryError("mine")

    with pytest.raises(MemoryError, match="mine"):
        read(Random(fail))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.layer(self.embed(input_ids).mean(1))


def test_lists_of_numbers_are_refused_with_the_way_out():
    rows = [{"input_ids": [i % 9, 1, 2], "label": i % 3} for i in range(20)]
    with pytest.raises(
        InputError, match=r"train: 'input_ids' of example 0 is a list of numbers.*with_format"
    ):
        read(rows)
    with pytest.raises(InputError, match="train: 0 of example 0 is a list of numbers"):
        read([([[1.0, 2.0], [3.0, 4.0]], 1)])
    as_tensors = [{**row, "input_ids": torch.tensor(row["input_ids"])} for row in rows]

    def collate(items):
        return {key: torch.tensor([item[key] for item in items]) for key in items[0]}

    model = seeded(Tokens)
    options = {"loss": "cross_entropy", "damping": 0.1, "progress": False}
    by_hand = Influence(model, rows, collate=collate, **options).fit().scores(rows[:3]).values
    plain = Influence(model, as_tensors, **options).fit().scores(as_tensors[:3]).values
    torch.testing.assert_close(by_hand, plain)


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(3.0),
        np.arange(3),
        [1, 2.0, "x"],
        {"a": torch.ones(2), "b": (1, None)},
        Picture([1, 2]),
        "x",
    ],
)
def test_digests_are_of_the_content(value):
    import copy

    assert content_digest(value) == content_digest(copy.deepcopy(value))
    assert content_digest(value) != content_digest([value, 1])


def test_digests_tell_apart():
    values = [
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.tensor([0.0, 1.0]),
        [1, 2],
        [2, 1],
        [[1], 2],
        {"a": 1},
        {"b": 1},
    ]
    assert len({content_digest(value) for value in values}) == len(values)
    assert content_size({"a": torch.ones(2, 3), "b": [1, 2], "c": np.ones(4), "d": "abc"}) == 15
