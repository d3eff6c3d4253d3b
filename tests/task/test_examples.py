"""Every form a data set may have gives the same batches; what cannot be used is refused with the fix."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tests.problems import labels, normal
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.task import Examples

N = 9
X, Y = normal(N, 4), labels(N)


class Items(Dataset):
    def __init__(self, items):
        self.items = items
        self.reads = 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.reads += 1
        return self.items[i]


class Graph:
    """A batch object of another library: it only knows how to move itself."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        return Graph(self.x.to(device), self.y.to(device))


def examples(data, *, collate=None, keep_bytes=10**9, role="train") -> Examples:
    return Examples(
        data,
        role=role,
        collate=collate,
        dtype=torch.float64,
        device=torch.device("cpu"),
        keep_bytes=keep_bytes,
    )


PAIRS = list(zip(X, Y))
stacked = torch.utils.data.default_collate
FORMS = {
    "tensors": lambda: examples((X, Y)),
    "numpy arrays": lambda: examples((X.numpy(), Y.numpy())),
    "single precision": lambda: examples((X.float(), Y)),
    "TensorDataset": lambda: examples(TensorDataset(X, Y)),
    "Dataset of tuples": lambda: examples(Items(PAIRS)),
    "Dataset read on demand": lambda: examples(Items(PAIRS), keep_bytes=0),
    "list": lambda: examples([(x.numpy(), int(y)) for x, y in PAIRS]),
    "tensors with a collate function": lambda: examples((X, Y), collate=stacked),
    "TensorDataset with a collate function": lambda: examples(
        TensorDataset(X, Y), collate=stacked, keep_bytes=0
    ),
    "dict": lambda: examples({"x": X, "y": Y}),
    "Dataset of dicts": lambda: examples(Items([{"x": x, "y": y} for x, y in PAIRS])),
    "batches of another mapping": lambda: examples(
        [{"x": x, "y": y} for x, y in PAIRS], collate=lambda items: UserDict(stacked(items)), keep_bytes=0
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches(form):
    found = FORMS[form]()
    tolerance = 1e-6 if form == "single precision" else 0
    assert len(found) == N

    def check(batch, index):
        x, y = batch.values() if isinstance(batch, dict) else batch
        assert x.dtype == torch.float64
        assert y.dtype == torch.int64
        torch.testing.assert_close(x, X[index], rtol=0, atol=tolerance)
        assert torch.equal(y, Y[index])

    check(found.batch(slice(2, 5)), slice(2, 5))
    check(found.batch([4, 0, 4]), [4, 0, 4])
    check(found.batch(torch.tensor([8])), [8])
    covered = []
    for where, batch in found.batches(4):
        check(batch, where)
        covered.append((where.start, where.stop))
    assert covered == [(0, 4), (4, 8), (8, 9)]


def test_small_data_is_read_once():
    data = Items(PAIRS)
    found = examples(data)
    reads = data.reads
    found.batch([0, 1])
    assert data.reads == reads
    data = Items(PAIRS)
    found = examples(data, keep_bytes=10)
    reads = data.reads
    found.batch([0, 1])
    assert data.reads == reads + 2


def test_sequences_padded_by_a_collate_function_keep_their_own_length():
    sequences = [(torch.arange(length), length % 3) for length in (4, 2, 4, 1)]

    def pad(items):
        return pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])

    found = examples(sequences, collate=pad)
    assert not found.uniform
    assert found.batch([1])[0].shape == (1, 2)
    assert found.batch([1, 3])[0].shape == (2, 2)
    assert found.batch(slice(0, 4))[0].shape == (4, 4)
    equal = examples([sequences[0], sequences[2]], collate=pad)
    assert equal.uniform
    assert examples((X, Y)).uniform


def test_batches_that_are_objects_with_to():
    found = examples(PAIRS, collate=lambda items: Graph(*stacked(items)))
    batch = found.batch([1, 2])
    assert isinstance(batch, Graph)
    assert torch.equal(batch.x, X[1:3])
    again = examples(PAIRS, collate=lambda items: Graph(*stacked(items)))
    assert again.fingerprint() == found.fingerprint()
    other = [(x + 1, y) for x, y in PAIRS]
    assert examples(other, collate=lambda items: Graph(*stacked(items))).fingerprint() != found.fingerprint()


@pytest.mark.parametrize("form", FORMS)
def test_fingerprints_follow_the_data(form):
    assert FORMS[form]().fingerprint() == FORMS[form]().fingerprint()


def test_columns_of_a_table_have_the_fingerprint_of_their_values():
    table = torch.stack([Y, Y + 1], dim=1)
    assert table[:, 0].stride() != Y.stride()
    assert examples((X, table[:, 0])).fingerprint() == examples((X, Y)).fingerprint()


@pytest.mark.parametrize("wrap", [lambda x, y: (x, y), lambda x, y: list(zip(x, y)), TensorDataset])
def test_fingerprints_change_with_any_value(wrap):
    first = examples(wrap(X, Y)).fingerprint()
    moved, relabelled = X.clone(), Y.clone()
    moved[5, 2] += 1e-9
    relabelled[3] = (relabelled[3] + 1) % 3
    changed = [wrap(moved, Y), wrap(X, relabelled), wrap(X[:-1], Y[:-1])]
    assert len({first, *(examples(data).fingerprint() for data in changed)}) == 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


def undecided(items):
    return stacked([(x + torch.rand(()), y) for x, y in items])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), r"train: Stream can only be iterated\..*map-style data set"),
        (iter(PAIRS), "can only be iterated"),
        (DataLoader(TensorDataset(X, Y), batch_size=3), r"train is a DataLoader.*pass loader\.dataset"),
        ([X, Y], r"train is a list of 2 tensors of shapes \(9, 4\), \(9,\).*Pass a tuple: \(X, y\)"),
        ([X.numpy(), Y.numpy()], r"Pass a tuple: \(X, y\)"),
        ([], "train is empty"),
        ((X[:0], Y[:0]), "train is empty"),
        ((X, Y[:5]), r"tensors of shapes \[\(9, 4\), \(5,\)\]; expected one first dimension"),
        ((X, torch.tensor(1)), "expected one first dimension"),
        ((X, Y.tolist()), "train is a tuple that holds a int; expected tensors or arrays"),
        ({}, "train is a dict that holds nothing"),
        (np.array(["a", "b"]), "train: .*Encode text"),
        (
            [(torch.arange(3), 0), (torch.arange(2), 1)],
            r"examples 0\.\.1 cannot be stacked into a batch.*Pass collate=",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        examples(data)


def test_lists_of_tensors_that_are_examples_are_taken_as_such():
    assert len(examples(list(X))) == N
    pictures = [torch.zeros(3, height, 4) for height in (2, 5, 3)]  # of several sizes, for a collate function

    def pad(items):
        return torch.stack([torch.nn.functional.pad(item, (0, 0, 0, 5 - item.shape[1])) for item in items])

    assert examples(pictures, collate=pad).batch([0, 2]).shape == (2, 3, 5, 4)


def test_examples_are_not_wrapped_twice():
    with pytest.raises(InputError, match="queries: pass the data set itself"):
        examples(examples((X, Y)), role="queries")


def test_a_random_collate_function_is_detected():
    with pytest.raises(InputError, match="collate function makes another batch of the same items"):
        examples(PAIRS, collate=undecided)


def test_errors_of_a_users_collate_function_pass():
    def broken(items):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        examples(PAIRS, collate=broken)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_named_by_their_index(bad):
    x = X.clone()
    x[6, 1] = bad
    found = examples((x, Y), role="queries")
    seen: list[Tensor] = []
    with pytest.raises(NonFiniteError, match="queries: example 6 holds NaN or infinity"):
        for where, batch in found.batches(4):
            found.check_finite(batch, where)
            seen.append(batch)
    assert len(seen) == 1
