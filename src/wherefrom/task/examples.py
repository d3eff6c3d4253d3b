"""Examples by index: any map-style data set, tensors, or a dict of tensors, read in batches and kept when
they fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from wherefrom.errors import InputError, NonFiniteError
from wherefrom.task.content import content_digest
from wherefrom.task.items import Items
from wherefrom.task.plain import require_plain

# Examples read at once while a data set is loaded into memory.
_LOAD_CHUNK = 512
# Items collated twice.
_COLLATED = 4


class Examples:
    """`n` examples that can be read again and again, in any order, as batches on the computation's device.

    Args:
        data: a `torch.utils.data.Dataset` with `__getitem__` and `__len__`; a tuple, list or dict of tensors
            whose first dimension is the example; or a list of items.
        role: what the argument is called in errors (`"train"`, `"queries"`).
        collate: makes a batch of a list of items; torch's default otherwise.
        dtype: floating-point tensors are cast to it.
        device: batches are moved there.
        keep_bytes: a data set whose batches are plain tensors is read once and kept if it takes no more than
            this.

    Attributes:
        n: how many.
        borrowed: tensors too large to be copied, whose memory is the user's.

    Raises:
        InputError: no examples, an iterable-only data set, tensors of different lengths or of a kind that is
            not read (sparse, nested, meta), an item that cannot be read or changes between reads.
    """

    def __init__(
        self,
        data: Any,
        *,
        role: str,
        collate: Callable[[list[Any]], Any] | None = None,
        dtype: torch.dtype,
        device: torch.device,
        keep_bytes: int,
    ):
        self.role = role
        self.dtype = dtype
        self.device = device
        self._collate = collate or default_collate
        self._tensors: Any = None
        self._items: Items | None = None
        self.borrowed: list[Tensor] = []
        if isinstance(data, Examples):
            raise InputError(f"{role}: pass the data set itself")
        if isinstance(data, TensorDataset):
            data = data.tensors
        if isinstance(data, (Tensor, np.ndarray, tuple, dict)):
            data = self._as_tensors(data)
            self.n = self._common_length(data)
            if collate is None:
                self._tensors = self._owned(data, self._cast(data), keep_bytes)
            else:
                self._items = Items(_Rows(data, self.n), role)
        else:
            self._items, self.n = Items(self._check_items(data), role), len(data)
        if self.n == 0:
            raise InputError(f"{role} is empty: expected at least one example")
        if self._items is not None:
            if collate is None:
                self._items.refuse_plain_lists()
            self._check_repeatable()
            self._keep_if_small(keep_bytes)
        if self._items is not None:
            self._items.watch_all()

    def __len__(self) -> int:
        return self.n

    @property
    def uniform(self) -> bool:
        """Whether an example's tensors have one shape in every batch: not where a collate function may
        pad."""
        return self._tensors is not None or self._collate is default_collate

    def batch(self, indices: Tensor | Sequence[int] | slice) -> Any:
        """The batch of these examples, cast and moved."""
        if isinstance(indices, slice):
            if self._tensors is not None:
                return tree_map(lambda leaf: leaf[indices], self._tensors)
            indices = range(*indices.indices(self.n))
        if self._tensors is not None:
            index = torch.as_tensor(indices, device=self.device, dtype=torch.long)
            return tree_map(lambda leaf: leaf[index], self._tensors)
        assert self._items is not None
        listed = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        items = [self._items[i] for i in listed]
        try:
            return self._cast(self._collate(items))
        except (RuntimeError, TypeError) as error:
            if self._collate is not default_collate:
                raise
            raise InputError(
                f"{self.role}: examples {listed[0]}..{listed[-1]} cannot be stacked into a batch ({error}). "
                "Pass collate=, a function from a list of items to a batch (for sequences: pad, and mask the "
                "padding)."
            ) from error

    def batches(self, size: int) -> Iterator[tuple[slice, Any]]:
        """Consecutive batches of `size` examples (the last one may be short), with the slice each covers."""
        for start in range(0, self.n, size):
            where = slice(start, min(start + size, self.n))
            yield where, self.batch(where)

    def spread(self, count: int) -> list[int]:
        """At most `count` examples, first to last, to try things on: neighbours are often alike."""
        return sorted({i * (self.n - 1) // max(count - 1, 1) for i in range(count)})

    def lengths(self, where: slice, batch: Any) -> Int[Tensor, " b"]:
        """Something that grows with the length of an example: the numbers its item holds or, of one shape for
        all, those that are not zero (a mask, tokens without padding)."""
        if self._items is not None:
            sizes = torch.from_numpy(self._items.sizes[where])
            if bool((sizes != sizes[0]).any()) or self._items.several_sizes:
                return sizes
        count = where.stop - where.start
        total = torch.zeros(count, dtype=torch.long)
        for leaf in tree_flatten(batch)[0]:
            if isinstance(leaf, Tensor) and leaf.ndim > 1 and leaf.shape[0] == count:
                total += (leaf != 0).reshape(count, -1).sum(1).cpu()
        return total

    def check_finite(self, batch: Any, where: slice) -> None:
        """Raise `NonFiniteError` if a tensor of the batch holds NaN or infinity, naming the first such
        example."""
        for leaf in tree_flatten(batch)[0]:
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                bad = (
                    (~torch.isfinite(leaf)).reshape(leaf.shape[0], -1).any(1).nonzero()[0, 0]
                    if leaf.ndim
                    else 0
                )
                raise NonFiniteError(
                    f"{self.role}: example {where.start + int(bad)} holds NaN or infinity. Fill in or drop "
                    "missing values before training; a model that has seen them has no meaningful gradients."
                )

    def fingerprint(self) -> str:
        """SHA-256 of the number of examples and of every tensor's content (for kept data), or of 64 spread
        items."""
        digest = hashlib.sha256(str(self.n).encode())
        spread = range(0, self.n, max(1, self.n // 64))
        tree = self._tensors if self._tensors is not None else self.batch(spread)
        for leaf in tree_flatten(tree_map(_content, tree))[0]:
            if isinstance(leaf, Tensor):
                digest.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
                digest.update(
                    leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                )
            else:
                digest.update(repr(leaf).encode())
        return digest.hexdigest()

    def _cast(self, batch: Any) -> Any:
        def one(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                require_plain(leaf, self.role)
                if leaf.is_inference():  # nothing can be differentiated that such a tensor takes part in
                    leaf = leaf.clone()
                return leaf.to(self.device, self.dtype if leaf.is_floating_point() else leaf.dtype)
            return leaf.to(self.device) if hasattr(leaf, "to") else leaf

        if isinstance(batch, Mapping) and not isinstance(batch, dict):
            batch = dict(batch)  # e.g. a tokenizer's BatchEncoding: torch's trees know only plain containers
        return tree_map(one, batch)

    def _owned(self, given: Any, cast: Any, keep_bytes: int) -> Any:
        """Tensors that no later change of the given ones changes, unless they are too large to be copied."""
        theirs = {leaf.untyped_storage().data_ptr() for leaf in tree_flatten(given)[0]}
        shared = [leaf for leaf in tree_flatten(cast)[0] if leaf.untyped_storage().data_ptr() in theirs]
        if sum(leaf.numel() * leaf.element_size() for leaf in shared) > keep_bytes:
            self.borrowed = shared
            return cast
        borrowed = {id(leaf) for leaf in shared}
        return tree_map(lambda leaf: leaf.clone() if id(leaf) in borrowed else leaf, cast)

    def _as_tensors(self, data: Any) -> Any:
        try:
            data = tree_map(
                lambda leaf: torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, data
            )
        except TypeError as error:
            raise InputError(
                f"{self.role}: {error}. Encode text and other objects as numbers first."
            ) from error
        leaves = tree_flatten(data)[0]
        other = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), None)
        if not leaves or other is not None:
            raise InputError(
                f"{self.role} is a {type(data).__name__} that holds "
                f"{'nothing' if not leaves else f'a {type(other).__name__}'}; expected "
                "tensors or arrays with the examples as first dimension. A list is taken as a list of "
                "examples."
            )
        for leaf in leaves:
            require_plain(leaf, self.role)
        return data

    def _check_items(self, data: Any) -> Any:
        if isinstance(data, DataLoader):
            raise InputError(
                f"{self.role} is a DataLoader; expected the data set itself, which can be read by index: "
                "pass loader.dataset (and collate=loader.collate_fn if it has one of its own)"
            )
        if self._collate is default_collate and _looks_like_columns(data):
            shapes = ", ".join(str(tuple(column.shape)) for column in data)
            raise InputError(
                f"{self.role} is a list of {len(data)} tensors of shapes {shapes}; a list is taken as a list "
                "of examples, and these look like inputs and targets. Pass a tuple: (X, y)"
            )
        if isinstance(data, IterableDataset) or not (
            hasattr(data, "__getitem__") and hasattr(data, "__len__")
        ):
            raise InputError(
                f"{self.role}: {type(data).__name__} can only be iterated. Influence names training "
                "examples and reads them many times, so it needs a map-style data set with __getitem__(i) "
                "and __len__(), or tensors. Put the items in a list, or wrap the source in a Dataset that "
                "reads item i."
            )
        return data

    def _common_length(self, data: Any) -> int:
        leaves = tree_flatten(data)[0]
        lengths = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
        if len(lengths) != 1 or None in lengths:
            raise InputError(
                f"{self.role}: tensors of shapes {[tuple(leaf.shape) for leaf in leaves]}; expected one "
                "first dimension, the number of examples"
            )
        return int(leaves[0].shape[0])

    def _check_repeatable(self) -> None:
        assert self._items is not None
        self._items.read_again(kept=False)
        few = [0] if self._collate is default_collate else self.spread(_COLLATED)
        first, again = (tree_flatten(self.batch(few))[0] for _ in range(2))
        if any(content_digest(a) != content_digest(b) for a, b in zip(first, again)):
            raise InputError(
                f"{self.role}: the collate function makes another batch of the same items at every call "
                "(random masking or cropping?). Influence needs fixed examples: pass one without randomness."
            )

    def _keep_if_small(self, keep_bytes: int) -> None:
        """Concatenate the collated items if that is possible and small; otherwise items are read on
        demand."""
        # A collate function may pad to the longest of a batch: alone, every example shows its own shape.
        chunk_size = _LOAD_CHUNK if self._collate is default_collate else 1
        assert self._items is not None
        one = self.batch([0])
        leaves = tree_flatten(one)[0]
        if not all(isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == 1 for leaf in leaves):
            return
        if self.n * sum(leaf.numel() * leaf.element_size() for leaf in leaves) > keep_bytes:
            return
        chunks, shapes = [], [leaf.shape[1:] for leaf in leaves]
        for start in range(0, self.n, chunk_size):
            chunk = self.batch(range(start, min(start + chunk_size, self.n)))
            if [leaf.shape[1:] for leaf in tree_flatten(chunk)[0]] != shapes:
                return  # sequences of several lengths: must be collated anew for every batch
            chunks.append(chunk)
        self._items.read_again(kept=True)
        self._tensors = tree_map(lambda *parts: torch.cat(parts), *chunks)
        self._items = None


def _looks_like_columns(data: Any) -> bool:
    """Whether a list is meant as `(X, y)`: tensors of one length, which as examples are not `(x, y)`."""
    return (
        isinstance(data, list)
        and len(data) >= 2
        and all(isinstance(column, (Tensor, np.ndarray)) and column.ndim >= 1 for column in data)
        and len({len(column) for column in data}) == 1
        and len({(tuple(column.shape), column.dtype) for column in data}) > 1
    )


class _Rows:
    """Tensors as a data set of items, for a collate function."""

    def __init__(self, tensors: Any, n: int):
        self._tensors = tensors
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> Any:
        return tree_map(lambda leaf: leaf[i], self._tensors)


def _content(leaf: Any) -> Any:
    """The attributes of a batch object, which its `repr` need not show (or shows with an address)."""
    return (
        leaf
        if isinstance(leaf, Tensor) or not hasattr(leaf, "__dict__")
        else dict(sorted(vars(leaf).items()))
    )
