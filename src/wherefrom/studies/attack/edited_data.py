"""Edited inputs put back into the training set, in the form the user gave it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from wherefrom.errors import InputError
from wherefrom.influence.continuous_input import ContinuousInput
from wherefrom.task import Objective


def edited_training_set(
    objective: Objective,
    where: ContinuousInput,
    index: Int[Tensor, " k"],
    x: Float[Tensor, " k *x"],
) -> tuple[Any, Float[Tensor, " k *x"]]:
    """The training set with the inputs of `index` exchanged for `x`, and what it then holds: `x` in the
    precision in which the user keeps the data.

    Raises:
        InputError: the items do not hold the tensor that the batches do (a collate function that computes),
            or hold it as something else than floating-point numbers.
    """
    data = objective.data
    replace, stored = {}, []
    for i, row in zip(index.tolist(), x):
        given = data.item(i)
        leaves, structure = tree_flatten(given)
        batch = objective.examples.batch([i])
        expected = where.read(batch)[0]
        if len(leaves) != len(tree_flatten(batch)[0]) or not _holds(leaves[where.position], expected):
            raise InputError(
                f"training example {i} does not hold its input {where.name} as the model gets it, so an edit "
                "cannot be written into the training set. Expected items whose floating-point tensors are "
                "stacked as they are: move what the collate function computes into the data set"
            )
        leaf = leaves[where.position]
        value: Any
        if isinstance(leaf, Tensor):
            value = row.detach().to(leaf.device, leaf.dtype).reshape(leaf.shape)
        else:
            value = row.detach().cpu().numpy().astype(leaf.dtype).reshape(leaf.shape)
        leaves[where.position] = value
        replace[i] = tree_unflatten(leaves, structure)
        stored.append(torch.as_tensor(value).to(expected))
    return data.edited(replace=replace), torch.stack(stored)


def _holds(leaf: Any, expected: Tensor) -> bool:
    if isinstance(leaf, np.ndarray):
        leaf = torch.from_numpy(leaf)
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.shape != expected.shape:
        return False
    return torch.equal(leaf.to(expected), expected)
