"""Tuples of three parts and more: an index or a weight at the end is no target."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn

from tests.problems import labels, normal, seeded
from wherefrom import Influence
from wherefrom.errors import InputError

N = 12
X, Y, INDEX = normal(N, 4), labels(N), torch.arange(N)
ITEM = namedtuple("Item", "x y index")


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        return self.layer(x)


class Any(Optional):
    def forward(self, *parts: Tensor) -> Tensor:
        return self.layer(parts[0])


class Two(Optional):
    def forward(self, x: Tensor, shift: Tensor, extra: Tensor | None = None) -> Tensor:
        return self.layer(x) + shift[:, None]


def scores(model, data, **options) -> Tensor:
    made = Influence(model, data, loss="cross_entropy", damping=0.1, progress=False, **options)
    return made.fit().scores(data).values


@pytest.mark.parametrize("model", [Optional, Any])
@pytest.mark.parametrize("last", [INDEX % 3, torch.ones(N, dtype=torch.long)])
def test_an_index_or_weight_is_not_taken_as_the_target(model, last):
    with pytest.raises(InputError, match=r"an example has 3 parts.*an index or a weight\? Pass forward="):
        scores(seeded(model), (X, Y, last))


def test_what_the_error_says_to_pass_gives_the_scores_of_pairs():
    model = seeded(Optional)
    found = scores(
        model,
        [ITEM(X[i], Y[i], i) for i in range(N)],
        forward=lambda model, batch: model(batch[0]),
        target=lambda batch: batch[1],
    )
    torch.testing.assert_close(found, scores(model, (X, Y)))


def test_forward_alone_does_not_say_which_part_is_the_target():
    with pytest.raises(
        InputError, match=r"forward= makes no use of part 1: .*target=lambda batch: batch\[1\]"
    ):
        scores(seeded(Optional), (X, Y, INDEX % 3), forward=lambda model, batch: model(batch[0]))
    with pytest.raises(InputError, match="an example has 3 parts"):
        scores(seeded(Optional), (X, Y, INDEX), target=lambda batch: batch[1])


@pytest.mark.parametrize("forward", [None, lambda model, batch: model(batch[0], batch[1])])
def test_two_inputs_that_are_both_taken_are_fed(forward):
    shift, model = normal(N, seed=5), seeded(Two)
    found = scores(model, (X, shift, Y), forward=forward)
    plain = scores(
        model, {"a": X, "b": shift, "y": Y}, forward=lambda model, batch: model(batch["a"], batch["b"])
    )
    torch.testing.assert_close(found, plain)


def test_relabelling_another_part_than_target_reads_is_refused():
    def target(batch):
        return batch[1]

    options = {"forward": lambda model, batch: model(batch[0]), "target": target}
    data = (X, Y, INDEX)
    made = Influence(
        seeded(Optional), data, loss="cross_entropy", damping=0.1, progress=False, **options
    ).fit()
    with pytest.raises(InputError, match=r"relabel: the last part of example 3 .*target= reads another part"):
        made.relabel([3], [7])
