"""Edits as they are written on the command line: `17,212`, `10-20`, `@file`, `5=3`, and sizes of groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wherefrom.errors import InputError

_HOW = "expected indices such as 17,212 or 10-20, or @file with one index per line"


def parse_indices(text: str, option: str) -> list[int]:
    """Training indices, in the order given.

    Args:
        text: numbers and ranges (both ends count) with commas between, or `@` and the name of a file of them,
            in which line ends serve as commas and `#` begins a comment.
        option: named in errors.

    Raises:
        InputError: text that is no such list, an empty one, or a file that cannot be read.
    """
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{option} {text}: the file cannot be read ({error}); {_HOW}") from error
        text = ",".join(line.partition("#")[0] for line in lines)
    found: list[int] = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError as error:
            raise InputError(f"{option} {part!r}: {_HOW}") from error
        if high < low:
            raise InputError(f"{option} {part!r}: the range ends before it begins; write {high}-{low}")
        found.extend(range(low, high + 1))
    if not found:
        raise InputError(f"{option} names no training example; {_HOW}")
    return found


def parse_pair(text: str, option: str, example: str) -> tuple[list[int], str]:
    """Training indices and what stands after the last `=`.

    Raises:
        InputError: no `=`, nothing after it, or as for `parse_indices`.
    """
    indices, equals, value = text.rpartition("=")
    if not equals or not value.strip():
        raise InputError(f"{option} {text!r}: expected INDICES=VALUE, as {example}")
    return parse_indices(indices, option), value.strip()


def parse_label(text: str, class_names: Sequence[str] | None, *, signed: bool = False) -> Any:
    """A label: the name of a class, or a number.

    Args:
        text: as written.
        class_names: the names.
        signed: labels are −1 and +1, which the first and the second name stand for.

    Raises:
        InputError: neither.
    """
    if class_names is not None and text in [str(name) for name in class_names]:
        index = [str(name) for name in class_names].index(text)
        return (-1, 1)[index] if signed and index < 2 else index
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    known = "" if class_names is None else f", or one of {', '.join(map(str, class_names))}"
    raise InputError(f"--relabel: {text!r} is no label; expected a number{known}")


def parse_times(text: str) -> float:
    """How often an example is to count.

    Raises:
        InputError: no number.
    """
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--upweight: {text!r} is no number; expected how often to count, as 8=2") from error


def parse_sizes(text: str | None, removed: int) -> list[int]:
    """Sizes of growing groups: numbers with commas between, each at most the number of removed examples.

    Raises:
        InputError: no such list, or nothing that is removed.
    """
    if text is None:
        return []
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InputError(f"--grow {text!r}: expected numbers such as 1,5,20") from error
    if removed == 0:
        raise InputError(f"--grow {text}: expected --remove with the ranking whose first so many are removed")
    if sizes[0] < 1 or sizes[-1] > removed:
        raise InputError(
            f"--grow {text}: expected sizes from 1 to {removed}, the number of examples that --remove names"
        )
    return sizes
