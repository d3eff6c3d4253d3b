"""How many examples go through the model together where only its outputs are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wherefrom.memory import fitting

if TYPE_CHECKING:
    from wherefrom.task.objective import Objective

# What a pass makes may take this share of the memory budget, and no more than so many bytes: caches gain
# nothing beyond.
_SHARE = 0.25
_CEILING = 256 * 2**20
# More examples than this go no faster.
_MOST = 256


def pass_size(objective: Objective) -> int:
    """Examples of a forward pass: as many as fit, at most 256. Counted are the results of all operations, the
    growth from one example to two, so that it does not matter how soon they are freed."""
    _bytes_made(objective, 1)  # what is done once, such as a copy of the model, is no part of a pass
    one = _bytes_made(objective, 1)
    each = one if objective.n == 1 else _bytes_made(objective, 2) - one
    return fitting(min(_SHARE * objective.memory, _CEILING), each, _MOST)


def _bytes_made(objective: Objective, count: int) -> int:
    batch = objective.examples.batch(range(count))
    with torch.no_grad(), _Counter() as counter:
        objective.outputs(objective.parameters.values, batch)
    return counter.total


class _Counter(TorchDispatchMode):
    """Adds up the bytes of what operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.total += sum(leaf.nbytes for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        return made
