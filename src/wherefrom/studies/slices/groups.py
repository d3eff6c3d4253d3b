"""Groups of examples by name: one name per example, or sets of examples that may overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.influence import check_indices

ALL_QUERIES = "all queries"
# Names listed in an error.
_LISTED = 8


@dataclass(frozen=True)
class Groups:
    """Named sets of examples out of `n`.

    Attributes:
        names: of the groups.
        members: the examples of each, as indices in ascending order.
        n: examples altogether, whether they belong to a group or not.
        role: what the argument is called in errors.
    """

    names: tuple[str, ...]
    members: tuple[Tensor, ...]
    n: int
    role: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def counts(self) -> Tensor:
        """Examples of each group, shape `(g,)`."""
        return torch.tensor([len(part) for part in self.members])

    def number(self, name: Any) -> int:
        """Which group has this name.

        Raises:
            InputError: none has it.
        """
        wanted = _as_name(name, self.role, "the name asked for")
        if wanted not in self.names:
            raise InputError(f"{self.role} has no group {wanted!r}; expected one of {_listed(self.names)}")
        return self.names.index(wanted)

    def names_of(self, index: int) -> tuple[str, ...]:
        """The groups that an example belongs to."""
        return tuple(name for name, part in zip(self.names, self.members) if bool((part == index).any()))


def resolve_groups(groups: Any, n: int, role: str) -> Groups:
    """Groups as the user gives them.

    Args:
        groups: one name per example (a sequence, array, 1-D tensor or pandas column of strings, integers or
            booleans; groups come out in the order of their names); or a mapping from names to indices, or to
            Boolean masks of length `n`, whose sets may overlap and need not cover every example.
        n: how many examples there are.
        role: what the argument is called in errors.

    Raises:
        InputError: another number of names than of examples, a missing name, an empty group, an index outside
            `0..n-1`, or something else altogether.
    """
    if isinstance(groups, Mapping):
        return _from_sets(groups, n, role)
    if isinstance(groups, str) or not hasattr(groups, "__len__") or not hasattr(groups, "__iter__"):
        raise InputError(
            f"{role} is a {type(groups).__name__}; expected one group name per example, or a mapping from "
            "names to indices"
        )
    values = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(values) != n:
        raise InputError(
            f"{role} names {len(values):,} examples, but there are {n:,}; expected one group name per example"
        )
    names = [_as_name(value, role, f"example {i}") for i, value in enumerate(values)]
    order = sorted(set(names), key=_sort_key)
    numbers = {name: number for number, name in enumerate(order)}
    codes = torch.tensor([numbers[name] for name in names])
    members = tuple((codes == number).nonzero()[:, 0] for number in range(len(order)))
    return Groups(tuple(order), members, n, role)


def queries_in_groups(groups: Any, q: int) -> Groups:
    """The same of the queries; one group of all of them for `None`."""
    return resolve_groups({ALL_QUERIES: range(q)} if groups is None else groups, q, "query_groups")


def _from_sets(groups: Mapping[Any, Any], n: int, role: str) -> Groups:
    if not groups:
        raise InputError(f"{role} is an empty mapping; expected at least one group")
    names = [_as_name(name, role, "a key") for name in groups]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{role}: two groups are named {twice!r}; expected different names")
    return Groups(
        tuple(names), tuple(_indices(part, n, f"{role}[{name!r}]") for name, part in groups.items()), n, role
    )


def _indices(part: Any, n: int, where: str) -> Tensor:
    index = torch.as_tensor(np.asarray(part) if not isinstance(part, Tensor) else part).reshape(-1).cpu()
    if index.dtype == torch.bool:
        if len(index) != n:
            raise InputError(f"{where} is a mask of length {len(index):,}; expected {n:,}, one per example")
        index = index.nonzero()[:, 0]
    if not len(index):
        raise InputError(f"{where} is empty: every group needs at least one example; leave it out")
    try:
        return check_indices(index, n).sort().values
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _as_name(value: Any, role: str, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError(f"{role}: {where} is {value!r}; expected a group name. Name the rest 'other', say.")
    if isinstance(value, (str, bool, int, float, np.generic)):
        return str(value)
    raise InputError(
        f"{role}: {where} is a {type(value).__name__}; expected a string, an integer or a boolean"
    )


def _sort_key(name: str) -> tuple[int, float, str]:
    """Numbers by size, before words by the alphabet."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown if len(names) <= _LISTED else f"{shown}, … ({len(names)} groups)"
