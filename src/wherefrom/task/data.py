"""The training set in the form the user gave it, and that form again with examples dropped, changed or
added."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import Dataset, TensorDataset

from wherefrom.errors import InputError
from wherefrom.store import fingerprint
from wherefrom.task.batch import TARGET_KEYS

# Hexadecimal digits of an example's name: two of a million are the same by chance once in ten million times.
_ID = 16


class Data:
    """Read, and write anew, what a user's recipe is called with.

    Tensors and arrays, alone or in tuples and dicts, are *columns* whose first dimension is the example; an
    *item* is one row of each. Lists, other tuples and data sets hold their items as they are.

    Args:
        data: as given to `Influence(train=…)`, kept as `given`.
        n: number of examples; counted where it is not given.

    Raises:
        InputError: no examples in a form that has a length, or columns without one first dimension.
    """

    def __init__(self, data: Any, n: int | None = None):
        self.given = data
        self._wrap = isinstance(data, TensorDataset)
        self._data = data.tensors if isinstance(data, TensorDataset) else data
        self.columns = isinstance(self._data, (Tensor, np.ndarray, tuple, dict)) and all(
            isinstance(leaf, (Tensor, np.ndarray)) for leaf in tree_flatten(self._data)[0]
        )
        self.n = self._count() if n is None else n

    def _count(self) -> int:
        if not self.columns:
            if not hasattr(self._data, "__len__") or not hasattr(self._data, "__getitem__"):
                raise InputError(
                    f"examples are a {type(self._data).__name__}; expected columns such as (X, y), a list of "
                    "examples, or a map-style data set"
                )
            return len(self._data)
        shapes = [tuple(leaf.shape) for leaf in tree_flatten(self._data)[0]]
        if len({shape[:1] for shape in shapes}) > 1 or () in shapes:
            raise InputError(
                f"examples are columns of shapes {', '.join(map(str, shapes))}; expected one first "
                "dimension, the example. A single example goes into a list: [(x, y)]"
            )
        return shapes[0][0] if shapes else 0

    def item(self, i: int) -> Any:
        """Example `i`."""
        return tree_map(lambda leaf: leaf[i], self._data) if self.columns else self._data[i]

    def inputs(self, i: int) -> Any:
        """What example `i` shows without its target, as the user gave it."""
        if not self.columns or not isinstance(self._data, (tuple, Mapping)):
            return _without_target(self.item(i))
        first = self._data[0] if isinstance(self._data, tuple) else _without_target(self._data)
        return tree_map(lambda leaf: leaf[i], first)

    def ids(self) -> list[str]:
        """A name for every example that depends on its content alone: the same in every process, order and
        data set, and shared by examples that hold the same."""
        return [fingerprint(self.item(i))[:_ID] for i in range(self.n)]

    def stack(self, items: Sequence[Any]) -> Any:
        """A data set of the same form that holds these items.

        Raises:
            InputError: no items, or one that does not fit beside the others.
        """
        if not len(items):
            raise InputError("items is empty: expected at least one example")
        if not self.columns:
            return list(items)
        return self._wrapped(self._stacked(items))

    def edited(
        self,
        *,
        drop: Collection[int] = (),
        replace: Mapping[int, Any] | None = None,
        repeat: Mapping[int, int] | None = None,
        add: Sequence[Any] = (),
    ) -> Any:
        """The training set without the examples `drop`, with those of `replace` exchanged, those of `repeat`
        so many times over, and `add` at the end; the order is kept.

        Columns stay columns, lists lists; a data set becomes one that reads the given one on demand.
        """
        replace, repeat, gone = replace or {}, repeat or {}, set(drop)
        order = [i for i in range(self.n) if i not in gone for _ in range(repeat.get(i, 1))]
        return self._in_order(order, replace, add)

    def reordered(self, order: Sequence[int]) -> Any:
        """The examples of these indices in this order, in the form the user gave."""
        return self._in_order(list(order), {}, ())

    def _in_order(self, order: list[int], replace: Mapping[int, Any], add: Sequence[Any]) -> Any:
        if not self.columns and isinstance(self._data, (list, tuple)):
            return type(self._data)([replace.get(i, self._data[i]) for i in order] + list(add))
        if not self.columns:
            return EditedDataset(self._data, order, dict(replace), list(add))
        index = torch.tensor(order, dtype=torch.long)
        kept = tree_map(
            lambda leaf: leaf[index.to(leaf.device) if isinstance(leaf, Tensor) else order], self._data
        )
        if replace:
            where = [position for position, i in enumerate(order) if i in replace]
            if where:
                rows = self._stacked([replace[order[position]] for position in where])
                kept = tree_map(lambda leaf, row: _with_rows(leaf, where, row), kept, rows)
        if len(add):
            kept = tree_map(_joined, kept, self._stacked(add))
        return self._wrapped(kept)

    def _wrapped(self, columns: Any) -> Any:
        return TensorDataset(*columns) if self._wrap else columns

    def _stacked(self, items: Sequence[Any]) -> Any:
        try:
            return tree_map(_stack_like, self._data, *items)
        except (ValueError, RuntimeError, TypeError) as error:
            raise InputError(
                f"an example does not have the form of the training set's: {error}. Expected what "
                f"one row of the training data is, {_described(self.item(0))}"
            ) from error


class EditedDataset(Dataset[Any]):
    """Items of another data set in an order of their own, some of them exchanged, others added."""

    def __init__(self, base: Any, order: Sequence[int], replace: Mapping[int, Any], add: Sequence[Any]):
        self.base, self.order, self.replace, self.add = base, list(order), dict(replace), list(add)

    def __len__(self) -> int:
        return len(self.order) + len(self.add)

    def __getitem__(self, i: int) -> Any:
        i = range(len(self))[i]
        if i >= len(self.order):
            return self.add[i - len(self.order)]
        own = self.order[i]
        return self.replace[own] if own in self.replace else self.base[own]


def target_of(item: Any) -> Any:
    """The target of an item `(x, …, y)` or of a dict with one target.

    Raises:
        InputError: it has another form.
    """
    return item[_target_key(item)]


def with_target(item: Any, target: Any) -> Any:
    """The item with another target, of the same type and shape.

    Raises:
        InputError: the item is neither `(x, …, y)` nor a dict with one target, or the target has another
            shape.
    """
    key = _target_key(item)
    return _with(item, key, _like(item[key], target, "target"))


def inputs_of(item: Any) -> Any:
    """The input of an item `(x, y)`.

    Raises:
        InputError: it has another form.
    """
    _require_pair(item)
    return item[0]


def with_inputs(item: Any, inputs: Any) -> Any:
    """The item `(x, y)` with another `x`, of the same type and shape.

    Raises:
        InputError: the item is no pair, or `x` has another shape.
    """
    _require_pair(item)
    return _with(item, 0, _like(item[0], inputs, "input"))


def _require_pair(item: Any) -> None:
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise InputError(
            f"an example is {_described(item)}; expected a pair (x, y). For examples of another form replace "
            "them whole, with replace(indices, examples)"
        )


def _target_key(item: Any) -> Any:
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return len(item) - 1
    if isinstance(item, Mapping):
        keys = [key for key in TARGET_KEYS if key in item]
        if len(keys) == 1:
            return keys[0]
    raise InputError(
        f"an example is {_described(item)}; expected (x, …, y), or a dict with exactly one of "
        f"{', '.join(TARGET_KEYS)}, so that its target can be changed. Otherwise replace the whole example, "
        "with replace(indices, examples)"
    )


def _without_target(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {key: value for key, value in item.items() if key not in TARGET_KEYS}
    return item[0] if isinstance(item, (tuple, list)) and len(item) else item


def _with(item: Any, key: Any, value: Any) -> Any:
    if isinstance(item, Mapping):
        return {**item, key: value}
    parts = list(item)
    parts[key] = value
    if hasattr(item, "_fields"):
        return type(item)(*parts)
    return type(item)(parts)


def _like(old: Any, new: Any, what: str) -> Any:
    """`new` as what `old` is: a tensor, an array, or a plain value."""
    try:
        if isinstance(old, Tensor):
            tensor = torch.as_tensor(new).detach()
            _require_size(tensor.shape, old.shape, what)
            return _same_values(tensor, old.dtype).to(old.device).reshape(old.shape)
        if isinstance(old, (np.ndarray, np.generic)):
            given = np.asarray(new.detach().cpu() if isinstance(new, Tensor) else new)
            _require_size(given.shape, old.shape, what)
            array = _same_values(given, old.dtype)
            return array.reshape(old.shape) if isinstance(old, np.ndarray) else array.reshape(())[()]
        return _plain(old, new)
    except InputError:
        raise
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise InputError(f"{what}={new!r}: {error}. Expected what the example has, {old!r}") from error


def _plain(old: Any, new: Any) -> Any:
    if not isinstance(old, (bool, int, float)):
        return new
    made = type(old)(new)
    if not isinstance(old, float) and not bool(made == new):
        raise ValueError(f"{type(old).__name__} cannot hold it")
    return made


def _same_values(given: Any, dtype: Any) -> Any:
    """A tensor or array in another dtype; refused where whole numbers would be made of others: a label of 1.5
    is none."""
    if isinstance(given, Tensor):
        made = given.to(dtype)
        rounded = not made.is_floating_point() and not torch.equal(made.to(given.dtype), given)
    else:
        with np.errstate(invalid="ignore"):
            made = given.astype(dtype)
            rounded = made.dtype.kind in "biu" and not np.array_equal(made.astype(given.dtype), given)
    if rounded:
        raise ValueError(f"{dtype} cannot hold the values given")
    return made


def _require_size(found: Sequence[int], expected: Sequence[int], what: str) -> None:
    if math.prod(found) != math.prod(expected):
        raise InputError(f"{what}: found shape {tuple(found)}, expected {tuple(expected)}, the example's")


def _stack_like(column: Any, *rows: Any) -> Any:
    if isinstance(column, Tensor):
        tensors = [_same_values(torch.as_tensor(row), column.dtype) for row in rows]
        bad = next((row for row in tensors if row.shape != column.shape[1:]), None)
        if bad is not None:
            raise ValueError(f"found shape {tuple(bad.shape)}, expected {tuple(column.shape[1:])}")
        return torch.stack([row.to(column.device) for row in tensors])
    arrays = [
        _same_values(np.asarray(row.detach().cpu() if isinstance(row, Tensor) else row), column.dtype)
        for row in rows
    ]
    bad_array = next((row for row in arrays if row.shape != column.shape[1:]), None)
    if bad_array is not None:
        raise ValueError(f"found shape {bad_array.shape}, expected {column.shape[1:]}")
    return np.stack(arrays)


def _with_rows(column: Any, where: list[int], rows: Any) -> Any:
    column[where] = rows
    return column


def _joined(column: Any, rows: Any) -> Any:
    return torch.cat([column, rows]) if isinstance(column, Tensor) else np.concatenate([column, rows])


def _described(item: Any) -> str:
    if isinstance(item, Mapping):
        return f"a dict of {sorted(map(str, item))}"
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {', '.join(_described(part) for part in item)}"
    if isinstance(item, (Tensor, np.ndarray)):
        return f"a {type(item).__name__} of shape {tuple(item.shape)}"
    return f"a {type(item).__name__}"
