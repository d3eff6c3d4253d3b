"""Class labels are read where targets are one whole number an example, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wherefrom.task import Objective, class_numbers


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([2, 0, 1]), [2, 0, 1]),
        (torch.tensor([[1.0], [-1.0], [1.0]]), [1, -1, 1]),
        (torch.tensor([0.5, 1.0, 0.0]), None),
        (torch.zeros(3, 2), None),
    ],
)
def test_targets_of_every_kind(targets, expected):
    objective = Objective(nn.Linear(2, 1), (torch.ones(3, 2), targets), loss=lambda f, y: f[:, 0])
    found = class_numbers(objective, objective.examples)
    assert (None if found is None else found.tolist()) == expected
