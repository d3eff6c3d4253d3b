"""Whether what `relabel` writes is what the objective reads as the target."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from wherefrom.errors import InputError
from wherefrom.interventions.edits import Edits
from wherefrom.task import Data, Objective, target_of
from wherefrom.task.content import content_digest


def require_read_target(objective: Objective, edits: Edits, train: Data) -> None:
    """Refuse new targets that `target=` does not read: it may take another part of an example than the last.

    Raises:
        InputError: the objective's targets stay as they were.
    """
    for i, item in edits.contents.items():
        before = train.item(i)
        if content_digest(target_of(before)) == content_digest(target_of(item)):
            continue
        if _read(objective, train, before) == _read(objective, train, item):
            raise InputError(
                f"relabel: the last part of example {i} was given the new target, but target= reads another "
                "part, which stays as it was. Change whole examples, with replace(indices, examples)"
            )
        return  # all items have one form


def _read(objective: Objective, train: Data, item: object) -> list[int]:
    batch = objective.read(train.stack([item]), role="labels").batch([0])
    leaves = tree_flatten(objective.targets(batch))[0]
    return [content_digest(leaf.to(torch.float64) if isinstance(leaf, Tensor) else leaf) for leaf in leaves]
