"""Tables as files, and names of folders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from wherefrom.plain_text import no_formula
from wherefrom.store import write_atomically

# Separates cells here, or where a comma is a decimal point.
_SEPARATES = re.compile(r'[,;\t"\r\n]')


def slug(name: str) -> str:
    """A folder name of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV. Numbers that are not finite are left empty; text that a spreadsheet would run as a
    formula gets an apostrophe before it.

    Raises:
        StoreError: the file cannot be written.
    """
    lines = [",".join(map(_cell, row)) for row in (header, *rows)]
    write_atomically(path, "\n".join([*lines, ""]))


def _cell(value: Any) -> str:
    """What is not known, as an infinite bound, is left empty."""
    if value is None or (isinstance(value, Real) and not math.isfinite(value)):
        return ""
    text = no_formula(str(value))
    return '"{}"'.format(text.replace('"', '""')) if _SEPARATES.search(text) else text
