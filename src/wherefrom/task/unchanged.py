"""Memory that belongs to the user, and whether it is as it was."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import TensorDataset

from wherefrom.errors import InputError
from wherefrom.task.content import content_digest

# Entries of a tensor, items of a list or data set, and bytes of an array that are looked at each time.
_ENTRIES, _ITEMS, _BYTES = 4096, 32, 64 * 2**20

Mark = Callable[[], Any]


class Unchanged:
    """Remembers tensors, arrays and data sets, and refuses to go on once they have changed.

    A change by torch in place is always seen, by the tensor's own counter of versions. Others (NumPy's, or
    through `.data`) are seen where they touch an entry that is looked at: all of an array up to 64 MiB, else
    4096 entries spread over the tensor or array; 32 items of a list or data set.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[str, Mark, Any]] = []

    def watch(self, what: str, mark: Mark) -> None:
        """Remember what `mark()` returns; `what` is how it is called in the error."""
        self._marks.append((what, mark, mark()))

    def watch_tensor(self, what: str, tensor: Tensor) -> None:
        """Remember a tensor."""
        self.watch(what, lambda: _tensor_mark(tensor))

    def watch_data(self, what: str, data: Any) -> None:
        """Remember data as a user gives it: tensors or arrays, alone or in tuples and dicts; a list; a data
        set."""
        data = data.tensors if isinstance(data, TensorDataset) else data
        leaves = tree_flatten(data)[0] if isinstance(data, (Tensor, np.ndarray, tuple, dict)) else []
        if leaves and all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves):
            for leaf in leaves:
                self.watch(what, _column_mark(leaf))
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            self.watch(what, lambda: _items_mark(data))

    def check(self) -> None:
        """Compare.

        Raises:
            InputError: something changed, naming it.
        """
        for what, mark, before in self._marks:
            if mark() != before:
                raise InputError(
                    f"{what} changed after it was given: what was computed from it no longer belongs to it. "
                    "Make a new Influence from the model and data as they are now, or give copies (.clone()) "
                    "of what you go on changing."
                )


def _column_mark(column: Tensor | np.ndarray) -> Mark:
    if isinstance(column, Tensor):
        return lambda: _tensor_mark(column)
    return lambda: _array_mark(column)


def _tensor_mark(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.is_inference():
        return (tuple(tensor.shape), content_digest(_spread(tensor)))
    return (tensor._version, tensor.data_ptr(), tuple(tensor.shape), content_digest(_spread(tensor)))


def _spread(tensor: Tensor) -> Tensor:
    """Entries spread over a tensor, without a copy of the whole."""
    flat = tensor.detach()
    if flat.numel() <= _ENTRIES:
        return flat
    index = torch.linspace(0, flat.numel() - 1, _ENTRIES, dtype=torch.float64).long().to(flat.device)
    return flat[torch.unravel_index(index, flat.shape)]


def _array_mark(array: np.ndarray) -> tuple[Any, ...]:
    if array.nbytes <= _BYTES and not array.dtype.hasobject:
        return (array.shape, zlib.crc32(np.ascontiguousarray(array).data))
    index = np.unravel_index(np.linspace(0, array.size - 1, _ENTRIES).astype(np.int64), array.shape)
    return (array.shape, content_digest(array[index]))


def _items_mark(data: Any) -> tuple[int, int]:
    n = len(data)
    digest = 0
    for i in sorted({k * (n - 1) // (_ITEMS - 1) for k in range(_ITEMS)}) if n else ():
        digest = content_digest(data[i], digest)
    return n, digest
