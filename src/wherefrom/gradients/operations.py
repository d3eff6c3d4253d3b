"""Operations of a model on an example, counted on a forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wherefrom.task import Objective

# Work on an entry of an activation, and the start of one of torch's functions, in operations of a matrix
# product in float32 that take as long.
ELEMENTWISE = 32
CALL = 4e5


@dataclass(frozen=True)
class Counted:
    """A forward pass.

    Attributes:
        operations: of matrix products, convolutions and attention, per example.
        calls: of torch's functions, for a batch.
    """

    operations: float
    calls: int


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.operations = 0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls += 1
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=made)
        return made


def count_forward(objective: Objective) -> Counted:
    """Of one or two training examples."""
    count = min(2, objective.n)
    batch = objective.examples.batch(range(count))
    _ = objective.model  # it is chosen by running it, the first time that it is asked for
    counter = _Counter()
    with torch.no_grad(), counter:
        objective.outputs(objective.parameters.values, batch)
    return Counted(counter.operations / count, counter.calls)
