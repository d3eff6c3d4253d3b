"""A data set's items, each one the same whenever it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wherefrom.errors import InputError, WherefromError
from wherefrom.memory import is_allocation_failure
from wherefrom.task.content import content_digest, content_size

# How often, and how many, spread items are read before anything is computed.
_READS, _SPREAD = 3, 8
# Of what was read once and kept, one in so many is read again, and at least so many.
_AGAIN, _LEAST = 20, 64


class Items:
    """Items by index; an item that is not what it was at the first reading is refused: some spread over the
    data set, or every one after `watch_all`.

    Attributes:
        sizes: numbers held by each item that was read, 0 for the others.
        several_sizes: whether these differ.
    """

    def __init__(self, data: Any, role: str):
        self._data, self._role = data, role
        self.n = len(data)
        self._digests = np.full(self.n, -1, dtype=np.int64)
        self.sizes = np.zeros(self.n, dtype=np.int64)
        self.several_sizes = False
        self._every = False
        few, share = self._spread(_SPREAD), self._spread(max(_LEAST, self.n // _AGAIN))
        self._few, self._share, self._watched = few, share, {*few, *share}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        """Item `i`.

        Raises:
            InputError: reading it raised an error, or gave something else than before.
        """
        try:
            item = self._data[i]
        except (WherefromError, MemoryError):
            raise
        except Exception as error:
            if is_allocation_failure(error):
                raise
            raise InputError(
                f"{self._role}: reading example {i} raised {type(error).__name__}: {error}. Expected a data "
                f"set that gives every example from 0 to {self.n - 1}; repair it, or leave this example out "
                "(torch.utils.data.Subset)."
            ) from error
        if not (self._every or i in self._watched):
            return item
        digest = content_digest(item)
        if self._digests[i] < 0:
            self._digests[i], self.sizes[i] = digest, content_size(item)
            self.several_sizes |= bool(self.sizes[i] != self.sizes[0])
        elif self._digests[i] != digest:
            raise InputError(
                f"{self._role}: example {i} changes from one read to the next. Random augmentation? "
                "Influence needs fixed examples: pass the data set without random transforms. Changed after "
                "it was given? Then make a new Influence from the data as it is now."
            )
        return item

    def read_again(self, *, kept: bool) -> None:
        """Read some spread items again, which shows random ones.

        Args:
            kept: whether all were read and are kept: then a share of them once more; else a few, several
                times.
        """
        for i in self._share if kept else self._few:
            for _ in range(1 if kept else _READS):
                self[i]

    def watch_all(self) -> None:
        """From now on every item is compared with what it was: for data that are read again and again."""
        self._every = True

    def _spread(self, count: int) -> list[int]:
        return sorted({k * (self.n - 1) // max(count - 1, 1) for k in range(count)}) if self.n else []

    def refuse_plain_lists(self) -> None:
        """Numbers in lists, which torch's own collate function turns into lists of columns.

        Raises:
            InputError: the first item holds such a list.
        """
        item = self[0]
        parts = (
            item.items()
            if isinstance(item, Mapping)
            else enumerate(item)
            if isinstance(item, (list, tuple))
            else ()
        )
        found = next((key for key, value in parts if _of_numbers(value)), None)
        if found is not None:
            raise InputError(
                f"{self._role}: {found!r} of example 0 is a list of numbers, of which torch's collate "
                "function makes a list of columns, not a batch. Expected tensors or arrays: for a data set "
                'of Hugging Face pass data.with_format("torch"); otherwise make tensors of the lists in the '
                "data set, or pass collate=, a function from a list of items to a batch."
            )


def _of_numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
        if isinstance(value, (bool, int, float)):
            return True
    return False
