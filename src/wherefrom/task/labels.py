"""One class label per example, where targets are such."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from wherefrom.task.examples import Examples
from wherefrom.task.objective import Objective


def class_numbers(objective: Objective, examples: Examples) -> Int[Tensor, " n"] | None:
    """The label of every example as the targets write it; `None` where targets are not one whole number an
    example (tokens, several labels, soft or continuous targets)."""
    found = []
    for _, batch in examples.batches(objective.pass_size):
        target = objective.targets(batch)
        if not isinstance(target, Tensor) or target.numel() != len(target):
            return None
        flat = target.detach().cpu().reshape(-1)
        if flat.is_floating_point() and bool((flat != flat.round()).any()):
            return None
        found.append(flat.long())
    return torch.cat(found)
