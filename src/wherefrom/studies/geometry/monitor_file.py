"""The monitor's file: JSON lines, one record each, of which a killed process loses at most the last."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherefrom.errors import StoreError
from wherefrom.store import dump_json
from wherefrom.store.sealed import SEAL, SealError, seal, unseal

if TYPE_CHECKING:
    import pandas

FORMAT = "wherefrom monitor"
VERSION = 2  # 1 had no checksums


class MonitorFile:
    """Opens a monitor's file for appending, or starts it.

    Every line carries a checksum of itself and of the line before it: a line that was damaged, edited, moved
    or taken out is noticed.

    Args:
        path: of the file; its directory must exist.
        header: what identifies the run: settings, model, data. A file with another header is refused.

    Raises:
        StoreError: the file belongs to another run, is damaged, is no monitor's file, or cannot be written.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]):
        self.path = Path(path)
        self.header = json.loads(dump_json({"format": FORMAT, "version": VERSION, **header}))
        self._last = ""  # checksum of the last line
        self._size = 0
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if whole:
                lines = _parse(whole, self.path)
                self._check_header(lines[0])
                self._last, self._size = lines[-1][SEAL], len(whole)
                if len(whole) < len(content):
                    _check_rest(content[len(whole) :], self.path)
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
        """One line, in one write, on the disk before this returns; none if that fails.

        Raises:
            StoreError: the file cannot be written, or another process has written to it.
        """
        text = seal(json.loads(dump_json(record)), after=self._last)
        line = (text + "\n").encode()
        try:
            with self.path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size != self._size:
                    raise StoreError(
                        f"{self.path} has {size:,} bytes, expected {self._size:,}: another has "
                        "written to it. Give every monitor a path= of its own."
                    )
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, self._size)
                    raise
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error}. Free some space or move it."
            ) from error
        self._last, self._size = json.loads(text)[SEAL], self._size + len(line)

    def _check_header(self, found: dict[str, Any]) -> None:
        there = {key: value for key, value in found.items() if key != SEAL}
        differing = sorted(key for key in {*there, *self.header} if there.get(key) != self.header.get(key))
        if differing:
            shown = "; ".join(
                f"{key}: {_short(there.get(key))} there, {_short(self.header.get(key))} here"
                for key in differing
            )
            raise StoreError(
                f"{self.path} belongs to another run ({shown}); expected a new one or one of the same model, "
                "data and settings. Pass another path=, or delete the file."
            )


def read_records(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and records of a monitor's file, by rising step.

    Where a resumed training went back to an earlier step, the records from that step on are the later ones.
    A last line that a kill left unfinished is not counted, with a warning.

    Raises:
        StoreError: no such file, not a monitor's, or damaged.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{file} cannot be read: {error}. Expected a file that a Monitor wrote; pass another path."
        ) from error
    whole = content[: content.rfind(b"\n") + 1]
    lines = [{k: value for k, value in line.items() if k != SEAL} for line in _parse(whole, file)]
    if len(whole) < len(content):
        _check_rest(content[len(whole) :], file)
        warnings.warn(
            f"{file}: its last line is unfinished, as a killed training leaves it, and is not counted.",
            stacklevel=2,
        )
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
        StoreError: no such file, not a monitor's, or damaged.
    """
    import pandas

    rows = [_flat(record) for record in read_records(path)[1]]
    return pandas.DataFrame(rows, columns=None if rows else ["step"]).set_index("step")


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Whole lines, with their checksums."""
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entry = unseal(line, after=lines[-1][SEAL] if lines else "")
        except SealError as error:
            if number == 1:
                raise _foreign(path, str(error)) from error
            raise StoreError(
                f"{path}, line {number} cannot be used: {error} (or the line before it is another one). "
                "Restore the file, or remove this line and all after it."
            ) from error
        if number == 1 and (entry.get("format") != FORMAT or entry.get("version") != VERSION):
            raise _foreign(path, f"it says version {entry.get('version')}")
        if number > 1 and not isinstance(entry.get("step"), int):
            raise StoreError(f"{path}, line {number} has no step; expected a record. Remove that line.")
        lines.append(entry)
    if not lines:
        raise _foreign(path, "it has no line")
    return lines


def _foreign(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path} is no monitor's file of version {VERSION} ({why}); expected a first line that says so. Pass "
        "another path, or delete the file."
    )


def _check_rest(rest: bytes, path: Path) -> None:
    """Refuse what no kill leaves of a line: it would begin like one, and hold no control characters.

    Raises:
        StoreError: the end of the file is damaged.
    """
    if not rest.startswith(b"{") or any(byte < 0x20 for byte in rest):
        raise StoreError(
            f"{path}: its end is damaged (no line that a killed process left). Restore the file, or remove "
            "its last line."
        )


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        row |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return row


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
