"""A training set without some of its examples, in the form the user gave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Subset


def without(train: Any, removed: Sequence[int], n: int) -> Any:
    """`train` without the examples `removed`: tensors stay tensors, tuples and dicts keep their shape, data sets become subsets."""
    gone = set(removed)
    kept = [i for i in range(n) if i not in gone]
    if isinstance(train, (Tensor, np.ndarray, tuple, dict)):
        index = torch.as_tensor(kept)
        return tree_map(lambda leaf: leaf[index.to(leaf.device)] if isinstance(leaf, Tensor) else leaf[kept], train)
    if isinstance(train, list):
        return [train[i] for i in kept]
    return Subset(train, kept)
