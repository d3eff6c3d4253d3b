"""Rows of JSON, one per finished piece of work: a killed run goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_files import DataError


class RowFile:
    """A file of JSON lines: the settings of the run, then a row with a `key` for each finished piece.

    A last line that was cut off by a kill is dropped, and that piece of work done again.

    Args:
        path: of the file; made if absent, with its folder.
        settings: JSON values that all rows depend on.

    Raises:
        DataError: the file holds rows of other settings.

    Attributes:
        rows: those written so far, by key.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        head, *rows = [json.loads(line) for line in whole.splitlines()] or [{"settings": settings}]
        if head != {"settings": settings}:
            raise DataError(
                f"{path} holds the rows of another run, with {json.dumps(head)}; this one has "
                f"{json.dumps(settings)}. Give another folder with --out, or remove that one."
            )
        if whole != text or not text:
            path.write_text(whole or json.dumps(head) + "\n")
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in rows}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, at once."""
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.rows[row["key"]] = row
