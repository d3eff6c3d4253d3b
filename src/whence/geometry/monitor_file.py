"""The monitor's file: JSON lines, one record each, of which a killed process loses at most the last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whence.errors import StoreError
from whence.store import dump_json

if TYPE_CHECKING:
    import pandas

FORMAT = "whence monitor"
VERSION = 1


class MonitorFile:
    """Opens a monitor's file for appending, or starts it.

    Args:
        path: of the file; its directory must exist.
        header: what identifies the run: settings, model, data. A file with another header is refused.

    Raises:
        StoreError: the file belongs to another run, is no monitor's file, or cannot be written.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]):
        self.path = Path(path)
        self.header = json.loads(dump_json({"format": FORMAT, "version": VERSION, **header}))
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if whole:
                found = _parse(whole, self.path)[0]
                self._check_header(found)
                if len(whole) < len(content):  # what a kill left of a line
                    with self.path.open("r+b") as file:
                        file.truncate(len(whole))
            elif content and not content.startswith(b'{"format"'):
                raise StoreError(
                    f"{self.path} is no monitor's file; expected a new path or a file of a Monitor. Pass "
                    "another path=."
                )
            else:
                self.path.write_bytes(b"")
                self.append(self.header)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"path={str(path)!r} cannot be written: {error}. Expected a file in an existing directory."
            ) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """One line, in one write, on the disk before this returns."""
        line = (dump_json(record) + "\n").encode()
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error}. Free some space or move it."
            ) from error

    def _check_header(self, found: dict[str, Any]) -> None:
        differing = sorted(key for key in {*found, *self.header} if found.get(key) != self.header.get(key))
        if differing:
            shown = "; ".join(
                f"{key}: {_short(found.get(key))} there, {_short(self.header.get(key))} here"
                for key in differing
            )
            raise StoreError(
                f"{self.path} belongs to another run ({shown}); expected a new one or one of the same model, "
                "data and settings. Pass another path=, or delete the file."
            )


def read_records(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and records of a monitor's file, by rising step.

    Where a resumed training went back to an earlier step, the records from that step on are the later ones.
    A last line that a kill left unfinished is not counted.

    Raises:
        StoreError: no such file, or not a monitor's.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error}. Expected a file that a Monitor wrote.") from error
    lines = _parse(content[: content.rfind(b"\n") + 1], file)
    records: list[dict[str, Any]] = []
    for record in lines[1:]:
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return lines[0], records


def read_monitor(path: str | Path) -> pandas.DataFrame:
    """A monitor's records as a data frame, one row per recorded step, indexed by `step`.

    A quantity with several numbers has one column for each: `gradient.norm_0.5`, `weights.0.weight`; a
    quantity that was not recorded is missing, with the reason under `skipped.`. Needs pandas, the `tables`
    extra.

    Raises:
        StoreError: no such file, or not a monitor's.
    """
    import pandas

    rows = [_flat(record) for record in read_records(path)[1]]
    return pandas.DataFrame(rows, columns=None if rows else ["step"]).set_index("step")


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise StoreError(
                f"{path}, line {number} is not JSON; expected a file only a Monitor wrote to. Restore it, "
                "or remove that line."
            ) from error
        if number > 1 and not (isinstance(entry, dict) and isinstance(entry.get("step"), int)):
            raise StoreError(f"{path}, line {number} has no step; expected a record. Remove that line.")
        lines.append(entry)
    first = lines[0] if lines else None
    if not isinstance(first, dict) or first.get("format") != FORMAT or first.get("version") != VERSION:
        raise StoreError(
            f"{path} is no monitor's file of version {VERSION}; expected a first line that says so. Pass "
            "another path."
        )
    return lines


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        row |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return row


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
