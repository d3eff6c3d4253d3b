"""A directory that keeps what took long: JSON records written atomically, under a manifest that names what
they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whence.errors import StoreError
from whence.store.files import TEMPORARY_PREFIX, write_atomically

_FORMAT = 1
_MANIFEST = "manifest.json"
# Beside the records, in run directories of their own: the factors of a fitted curvature.
FACTORS = "kronecker"


class RunDirectory:
    """Records of one run, kept across processes.

    A record is there whole or not at all: it is written to a temporary file beside its place and renamed, so
    a run killed at any point resumes from the records it finished.

    Args:
        path: created if absent.
        identity: fingerprints of model, data and everything else the records depend on, as JSON values.

    Raises:
        StoreError: the directory belongs to a run with another identity (the message lists what differs), is
            not a run directory, or cannot be read or written.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]):
        self.path = Path(path)
        # As JSON gives it back: a tuple becomes a list.
        wanted = json.loads(json.dumps({"format": _FORMAT, **identity}))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.path, error) from error
        check_run_directory(self.path)
        manifest = self.path / _MANIFEST
        if manifest.exists():
            found = self._load(manifest)
            if not isinstance(found, dict):
                raise StoreError(f"{manifest} is no manifest of a run. Use a new directory.")
            differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            if differing:
                raise StoreError(
                    f"run directory {self.path} belongs to another run: {', '.join(differing)} differ"
                    f"{'s' if len(differing) == 1 else ''}. Use a new directory, or delete this one if its "
                    "results are no longer needed."
                )
        else:
            self._write(manifest, wanted)

    def read(self, name: str) -> Any | None:
        """The record `name`, or `None` if it was never finished."""
        file = self.path / f"{name}.json"
        return self._load(file) if file.exists() else None

    def write(self, name: str, record: Any) -> None:
        """Keep a record of JSON values, replacing one of the same name."""
        self._write(self.path / f"{name}.json", record)

    def _load(self, file: Path) -> Any:
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError) as error:  # ValueError: not JSON, or not text
            raise StoreError(
                f"{file} cannot be read ({error}). Delete it to compute its content again."
            ) from error

    def _write(self, file: Path, record: Any) -> None:
        write_atomically(file, json.dumps(record))


def check_run_directory(path: str | Path) -> None:
    """Refuse a directory that holds something else than a run.

    Raises:
        StoreError: it is not empty and has no manifest, or cannot be read.
    """
    folder = Path(path)
    try:
        if not folder.exists() or (folder / _MANIFEST).exists():
            return
        # Runs that measure something else have directories of their own inside.
        names = [entry.name for entry in folder.iterdir() if not (entry / _MANIFEST).exists()]
    except OSError as error:
        raise _unusable(folder, error) from error
    if any(not name.startswith(TEMPORARY_PREFIX) and name != FACTORS for name in names):
        raise StoreError(
            f"{folder} is not empty and has no {_MANIFEST}: it is no run directory. Use a new one."
        )


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"run directory {path} cannot be created or read: {error}")
