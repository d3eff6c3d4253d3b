"""Numbers that users give: checked once, in the same words everywhere.

A bool is no number here, and 2.5 is no whole one: `remove=2.5` or `memory=True` are slips, and what they
would be read as is not what was meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from wherefrom.errors import InputError


def whole(
    name: str, value: Any, least: int | None = None, most: int | None = None, *, expected: str | None = None
) -> int:
    """`value` as an integer within the limits (NumPy's integers among them).

    Args:
        name: of the argument, for the error.
        value: as given.
        least, most: limits, both allowed; `None`: no limit.
        expected: what the error asks for, in the place of its own words.

    Raises:
        InputError: it is none.
    """
    number = is_whole(value)
    if not number or (least is not None and value < least) or (most is not None and value > most):
        raise InputError(f"{name}={_shown(value)}: expected {expected or _whole_words(least, most)}")
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | int | None = None,
    least: float | int | None = None,
    below: float | int | None = None,
    most: float | int | None = None,
    expected: str | None = None,
) -> float:
    """`value` as a finite float within the limits.

    Args:
        name: of the argument, for the error.
        value: as given.
        above, below: limits that are not allowed themselves; `None`: no limit.
        least, most: limits that are.
        expected: what the error asks for, in the place of its own words.

    Raises:
        InputError: it is none.
    """
    good = is_number(value)
    if (
        not good
        or (above is not None and not value > above)
        or (least is not None and not value >= least)
        or (below is not None and not value < below)
        or (most is not None and not value <= most)
    ):
        limits = (("above", above), ("at least", least), ("below", below), ("at most", most))
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        raise InputError(f"{name}={_shown(value)}: expected {expected or f'a finite number {words}'.strip()}")
    return float(value)


def seeds_of(seeds: Any, name: str = "seeds") -> tuple[int, ...]:
    """Seeds as integers, each named once: the same seed twice is the same training, and no second opinion.

    Raises:
        InputError: no list, an empty one, an entry that is no integer, or one named twice.
    """
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Iterable):
        raise InputError(f"{name}={_shown(seeds)}: expected whole numbers in a list, such as [0]")
    listed = list(seeds)
    if not listed:
        raise InputError(f"{name} is empty: expected at least one whole number, such as [0]")
    found = tuple(whole(f"{name}[{i}]", seed) for i, seed in enumerate(listed))
    twice = next((seed for seed in found if found.count(seed) > 1), None)
    if twice is not None:
        raise InputError(
            f"{name}={list(found)}: seed {twice} is named twice, which would be the same training twice; "
            "expected different seeds"
        )
    return found


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, which must be one of `choices`.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name}={_shown(value)}: expected one of {', '.join(map(repr, choices))}")
    return value


def is_whole(value: Any) -> bool:
    """Whether it is an integer, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _whole_words(least: int | None, most: int | None) -> str:
    if least is not None and most is not None:
        return f"a whole number from {least} to {most}"
    if least is not None:
        return f"a whole number of at least {least}"
    return "a whole number" if most is None else f"a whole number of at most {most}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
