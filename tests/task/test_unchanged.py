"""What the user changes after it was given changes no score in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tests.problems import labels, mlp, normal, seeded
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.task.unchanged import Unchanged

N = 20
# Neither the training inputs nor the frozen weights are copied under it.
SMALL = 1000
QUERIES = (normal(3, 4, seed=8), labels(3, seed=9))


def data() -> tuple[Tensor, Tensor]:
    return normal(N, 4), labels(N)


def fit(model=None, train=None, **options) -> Influence:
    options = {"loss": "cross_entropy", "damping": 0.1, "solver": "identity", "progress": False, **options}
    return Influence(model or mlp(), train or data(), **options).fit()


class WithStatistics(nn.Module):
    """A frozen layer, batch normalisation, a buffer and a plain tensor before what is studied."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 5).requires_grad_(False)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 3)
        self.register_buffer("scale", torch.full((3,), 2.0))
        self.plain = torch.full((3,), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.norm(self.frozen(x))))) * self.scale * self.plain


def train_on(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()


CHANGES = {
    "training goes on": lambda model, x, y: train_on(model.requires_grad_(True), x, y),
    "frozen weights": lambda model, x, y: model.frozen.weight.data.mul_(3),
    "statistics": lambda model, x, y: model.norm.running_mean.add_(1),
    "buffer": lambda model, x, y: model.scale.mul_(3),
    "plain tensor": lambda model, x, y: model.plain.mul_(3),
    "mode": lambda model, x, y: model.train(),
    "hook": lambda model, x, y: model.register_forward_hook(lambda module, given, made: made * 3),
    "layer": lambda model, x, y: setattr(model, "head", nn.Linear(5, 3).double()),
    "assigned": lambda model, x, y: model.load_state_dict(
        {k: v * 3 for k, v in model.state_dict().items()}, assign=True
    ),
    "training data": lambda model, x, y: (x.mul_(3), y.fill_(0)),
    "through .data": lambda model, x, y: x.data.mul_(3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_scores_stay_those_of_what_was_given(change):
    model, (x, y) = seeded(WithStatistics), data()
    made = fit(model, (x, y))
    expected = made.scores(QUERIES).values.clone()
    own = made.self_scores().values.clone()
    CHANGES[change](model, x, y)
    torch.testing.assert_close(made.scores(QUERIES).values, expected)
    torch.testing.assert_close(made.self_scores().values, own)


@pytest.mark.parametrize("change", ["frozen weights", "training goes on", "training data", "through .data"])
def test_what_is_too_large_to_copy_is_refused_when_it_changes(change):
    model, (x, y) = seeded(WithStatistics), data()
    made = fit(model, (x, y), memory=SMALL)
    CHANGES[change](model, x, y)
    for use in (
        lambda: made.scores(QUERIES),
        made.self_scores,
        lambda: made.parameter_influence([1]),
        lambda: made.minimum,
        lambda: made.labels(),
        lambda: made.remove([1]),
    ):
        with pytest.raises(
            InputError, match=r"(train|'frozen\.weight' of the model) changed after it was given"
        ):
            use()


def test_arrays_share_no_memory():
    x, y = (part.numpy() for part in data())
    made = fit(train=(x, y))
    expected = made.scores(QUERIES).values.clone()
    x *= 3
    torch.testing.assert_close(made.scores(QUERIES).values, expected)


class Reads(Dataset):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int):
        return self.x[i], self.y[i]


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: (x.numpy(), y.numpy()),
        TensorDataset,
        lambda x, y: [(x[i], y[i]) for i in range(N)],
        Reads,
    ],
)
def test_training_data_that_changed_is_not_trained_on_or_edited(form):
    x, y = data()
    made = fit(train=form(x, y))
    change = made.remove([2])
    x[7] += 1
    for use in (
        lambda: made.verify(QUERIES, lambda train, seed: mlp(), remove=2),
        lambda: made.relabel([1], 0),
        lambda: made.flip(QUERIES),
        lambda: change.retrain(lambda train, seed: mlp(), QUERIES),
        change.data,
        lambda: made.train,
    ):
        with pytest.raises(InputError, match="train changed after it was given"):
            use()
    x[7] -= 1


def test_a_list_read_on_demand_names_the_example_that_changed():
    items = [(normal(2 + i % 2, 4, seed=i), labels(1, seed=i)[0]) for i in range(N)]

    def collate(batch):
        return torch.stack([x.mean(0) for x, _ in batch]), torch.stack([y for _, y in batch])

    made = fit(train=items, collate=collate, memory=SMALL)
    items[5][0].mul_(2)
    with pytest.raises(InputError, match=r"example 5 changes from one read to the next|train changed"):
        made.scores(items[:2])


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (torch.ones(3), lambda value: value.mul_(2)),
        (torch.ones(3), lambda value: value.data.mul_(2)),
        (np.ones(3), lambda value: value.fill(2)),
        ([torch.ones(2)] * 3, lambda value: value[1].mul_(2)),
        ([1, 2, 3], lambda value: value.append(4)),
        ({"a": np.zeros(5)}, lambda value: value["a"].put(2, 1)),
    ],
)
def test_changes_are_seen_in_every_form(value, change):
    seen = Unchanged()
    seen.watch_data("it", value)
    seen.check()
    change(value)
    with pytest.raises(InputError, match="it changed after it was given"):
        seen.check()
