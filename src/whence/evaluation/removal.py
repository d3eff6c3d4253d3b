"""A training set without some of its examples, in the form the user gave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import Subset


def without(train: Any, removed: Sequence[int], n: int) -> Any:
    """`train` without the examples `removed`: tensors stay tensors, tuples and dicts keep their shape, data
    sets become subsets.

    A list, and a tuple that holds anything but tensors, is a sequence of items and loses those items.
    """
    gone = set(removed)
    kept = [i for i in range(n) if i not in gone]
    if isinstance(train, list):
        return [train[i] for i in kept]
    if isinstance(train, (Tensor, np.ndarray, tuple, dict)):
        if all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in tree_flatten(train)[0]):
            index = torch.as_tensor(kept)
            return tree_map(
                lambda leaf: leaf[index.to(leaf.device)] if isinstance(leaf, Tensor) else leaf[kept], train
            )
        if isinstance(train, tuple):
            return tuple(train[i] for i in kept)
    return Subset(train, kept)
