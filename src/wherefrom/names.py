"""Names of choices as people write them: case, hyphens and spaces do not count, and a slip gets a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from wherefrom.errors import InputError


def plain(name: str) -> str:
    """A name in the one spelling that is compared: `"Block-Diagonal "` is `"block_diagonal"`."""
    return "_".join(name.strip().lower().replace("-", " ").replace("_", " ").split())


def resolve_name(
    argument: str,
    given: Any,
    known: Iterable[str],
    *,
    aliases: Mapping[str, str] | None = None,
    unclear: Mapping[str, str] | None = None,
    also: str = "",
) -> str:
    """The known name that was meant.

    Args:
        argument: what the argument is called, for the error.
        given: as the user wrote it.
        known: names as they are written here.
        aliases: other names of the same, in the spelling of `plain`, and what they stand for.
        unclear: names that could mean several things, likewise, and what to use instead.
        also: what else the argument may be, for the error (`"a Solver"`).

    Raises:
        InputError: no text, or none of them; with the closest one, if any is close.
    """
    names = list(known)
    written = {spelling: name for name in names for spelling in _spellings(name)}
    others = {spelling: meant for name, meant in (aliases or {}).items() for spelling in _spellings(name)}
    doubtful = {spelling: why for name, why in (unclear or {}).items() for spelling in _spellings(name)}
    expected = f"expected one of {', '.join(map(repr, names))}" + (f", or {also}" if also else "")
    if not isinstance(given, str):
        raise InputError(f"{argument}={given!r}: {expected}")
    for spelling in _spellings(given):
        if spelling in doubtful:
            raise InputError(f"{argument}={given!r} is not clear: {doubtful[spelling]}.")
        if spelling in written:
            return written[spelling]
        if spelling in others:
            return others[spelling]
    close = difflib.get_close_matches(plain(given), [*written, *others], n=1)
    hint = f" Did you mean {(written | others)[close[0]]!r}?" if close else ""
    raise InputError(f"{argument}={given!r}: {expected}.{hint}")


def _spellings(name: str) -> tuple[str, str]:
    """With and without what separates words: "block diagonal", "blockdiagonal", "EK-FAC"."""
    return plain(name), plain(name).replace("_", "")
