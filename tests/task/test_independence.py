"""Dependence on the rest of a batch that four spread examples do not show."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.problems import labels, normal, seeded
from wherefrom import Influence
from wherefrom.errors import BatchDependenceError
from wherefrom.task import Objective, check_batch_independence

N = 60
LONG = (17, 41)
LENGTHS = [40 if i in LONG else 4 for i in range(N)]
ITEMS = [(normal(length, 3, seed=i) + 0.5, torch.tensor(i % 3)) for i, length in enumerate(LENGTHS)]


def pad(items):
    x = pad_sequence([x for x, _ in items], batch_first=True)
    mask = pad_sequence([torch.ones(len(x)).double() for x, _ in items], batch_first=True)
    return {"x": x, "mask": mask, "labels": torch.stack([y for _, y in items])}


class Mean(nn.Module):
    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.layer, self.masked = nn.Linear(3, 3), masked

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if not self.masked:
            return self.layer(x.mean(1))
        return self.layer((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def fit(model: nn.Module, data, loss="cross_entropy", **options) -> Influence:
    return Influence(model, data, loss=loss, damping=0.1, progress=False, **options).fit()


def test_rare_long_sequences_show_that_padding_is_not_masked():
    with pytest.raises(BatchDependenceError, match=r"loss .* in a batch of \d+ but .* alone.*padding"):
        fit(seeded(lambda: Mean(masked=False)), ITEMS, collate=pad)


def test_rare_long_sequences_with_a_mask_are_fine_and_no_batch_size_matters():
    model = seeded(lambda: Mean(masked=True))
    found = [
        fit(model, ITEMS, collate=pad, batch_size=size, solver="identity").scores(ITEMS[16:19]).values
        for size in (None, 7)
    ]
    torch.testing.assert_close(found[0], found[1])


def test_rare_long_queries_show_it_too():
    """All training examples are equally long; only queries are padded."""
    short = [item for item in ITEMS if len(item[0]) == 4]
    made = fit(seeded(lambda: Mean(masked=False)), short, collate=pad)
    made.scores(short[:5])
    with pytest.raises(BatchDependenceError, match="measurement 'loss' of query"):
        made.scores([*short[:12], ITEMS[17], *short[:12]])


class Trims(nn.Module):
    """Kept tensors of one shape, cut to the longest of the batch and averaged over it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(6, 3), nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        longest = int((tokens != 0).sum(1).max())
        return self.layer(self.embed(tokens[:, :longest]).mean(1))


def test_lengths_of_kept_tokens_are_counted_without_the_padding():
    tokens = torch.zeros(N, 30, dtype=torch.long)
    for i in range(N):
        tokens[i, : 25 if i in LONG else 3] = 1 + labels(25 if i in LONG else 3, classes=5, seed=i)
    with pytest.raises(BatchDependenceError, match="padding without a mask"):
        fit(seeded(Trims), (tokens, labels(N)))


class Experts(nn.Module):
    """Two experts; the second has room for some examples of a batch only."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.first, self.second, self.room = nn.Linear(4, 3), nn.Linear(4, 3), room

    def forward(self, x: Tensor) -> Tensor:
        asked = x[:, 0] > 0
        served = asked & (asked.cumsum(0) <= self.room)
        return torch.where(served[:, None], self.second(x), self.first(x))


def test_experts_with_room_for_a_few_are_found_and_with_room_for_all_fine():
    x, y = normal(N, 4), labels(N)
    with pytest.raises(BatchDependenceError, match="experts with room"):
        fit(seeded(lambda: Experts(20)), (x, y))
    fit(seeded(lambda: Experts(N)), (x, y))


def contrastive(outputs: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")


def against_the_next(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs.square().sum(1) - (outputs * outputs[[1, *range(len(outputs) - 1)]]).sum(1)


def against_a_fixed(outputs: Tensor, _: Tensor) -> Tensor:
    return (outputs - outputs[1]).square().sum(1)


@pytest.mark.parametrize("loss", [contrastive, against_the_next, against_a_fixed])
def test_negatives_from_the_batch_are_refused_by_name(loss):
    with pytest.raises(BatchDependenceError, match="negatives"):
        fit(seeded(lambda: nn.Linear(4, 3)), (normal(9, 4), labels(9)), loss, curvature="ggn")


class Pairs(nn.Module):
    """Cannot be called on one example."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) - self.layer(x[[1]])


def test_a_forward_pass_that_needs_others_is_refused_by_name():
    with pytest.raises(BatchDependenceError, match=r"single example cannot be computed \(IndexError"):
        fit(seeded(Pairs), (normal(9, 4), labels(9)))


def test_the_pass_is_made_where_it_is_not_given():
    data = (normal(N, 4), labels(N))
    with pytest.raises(BatchDependenceError, match="in a batch of 60"):
        check_batch_independence(Objective(seeded(lambda: Experts(20)), data, loss="cross_entropy"))
