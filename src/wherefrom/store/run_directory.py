"""A directory that keeps what took long: JSON records written atomically, under a manifest that names what
they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wherefrom.errors import StoreError
from wherefrom.store.files import write_atomically, write_new
from wherefrom.store.leftovers import TEMPORARY_PREFIX, remove_leftovers
from wherefrom.store.sealed import SEAL, SealError, digest, seal, unseal
from wherefrom.store.tensors import RECOMPUTE

_FORMAT = 2  # 1 had no checksums
_MANIFEST = "manifest.json"
# Beside the records, in folders of their own: the factors of a fitted curvature, scores, verdicts.
FACTORS, SCORES, TRUST = "kronecker", "scores", "trust"
_ELSEWHERE = "Use a new directory, or delete this one if its results are no longer needed."


class RunDirectory:
    """Records of one run, kept across processes.

    A record is there whole or not at all: it is written to a temporary file beside its place and renamed, so
    a run killed at any point resumes from the records it finished. Each says which record of which run it is
    and carries a checksum: one that was damaged, edited, or taken from another place is refused.

    Args:
        path: created if absent.
        identity: fingerprints of model, data and everything else the records depend on, as JSON values.

    Raises:
        StoreError: the directory belongs to a run with another identity (the message lists what differs), is
            not a run directory, is damaged, or cannot be read or written.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]):
        self.path = Path(path)
        # As JSON gives it back: a tuple becomes a list.
        wanted = json.loads(json.dumps({"format": _FORMAT, **identity}))
        self._run = digest(wanted)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.path, error) from error
        check_run_directory(self.path)
        manifest = self.path / _MANIFEST
        if not manifest.exists():
            # Of several runs that start here at once, one does; the others then find its manifest.
            write_new(manifest, seal(wanted))
        found = self._load(manifest, f"Its records cannot be told from another run's. {_ELSEWHERE}")
        self._compare(found, wanted)

    def read(self, name: str) -> Any | None:
        """The record `name`, or `None` if it was never finished.

        Raises:
            StoreError: it is damaged, was edited, or is another record or another run's.
        """
        file = self._file(name)
        if not file.exists():
            return None
        found = self._load(file, RECOMPUTE)
        for what, here in (("name", name), ("run", self._run)):
            if found.get(what) != here:
                shown = "another run's" if what == "run" else f"the record {found.get('name')!r}"
                raise StoreError(
                    f"{file} cannot be used: it is {shown}, not this run's {name!r}. {RECOMPUTE}"
                )
        return found.get("record")

    def write(self, name: str, record: Any) -> None:
        """Keep a record of JSON values, replacing one of the same name.

        Raises:
            StoreError: it cannot be written.
        """
        write_atomically(self._file(name), seal({"name": name, "run": self._run, "record": record}))

    def unusable(self, name: str, why: str) -> StoreError:
        """The error for a record whose content is not what was expected."""
        return StoreError(f"{self._file(name)} cannot be used: {why}. {RECOMPUTE}")

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        there = {name: value for name, value in found.items() if name != SEAL}
        differing = sorted(
            key for key in {*wanted, *there} if digest(wanted.get(key)) != digest(there.get(key))
        )
        if differing:
            raise StoreError(
                f"run directory {self.path} belongs to another run: {', '.join(differing)} differ"
                f"{'s' if len(differing) == 1 else ''}. {_ELSEWHERE}"
            )

    def _load(self, file: Path, advice: str) -> dict[str, Any]:
        try:
            return unseal(file.read_bytes())
        except OSError as error:
            raise StoreError(f"{file} cannot be read ({error}). {advice}") from error
        except SealError as error:
            raise StoreError(f"{file} cannot be used: {error}. {advice}") from error


def check_run_directory(path: str | Path) -> None:
    """Refuse a directory that holds something else than a run; of a run's, remove what killed processes left
    half-written, in the folders inside it too.

    Raises:
        StoreError: it is not empty and has no manifest, or cannot be read.
    """
    folder = Path(path)
    manifest = folder / _MANIFEST
    try:
        if not folder.exists():
            return
        strange = (
            [] if manifest.exists() else [entry for entry in folder.iterdir() if not _may_be_here(entry)]
        )
        if strange and not manifest.exists():  # another process may have written it meanwhile
            raise StoreError(
                f"{folder} is not empty and has no {_MANIFEST}: it is no run directory. Use a new one."
            )
    except StoreError:
        raise
    except OSError as error:
        raise _unusable(folder, error) from error
    remove_leftovers(folder, within=True)


def _may_be_here(entry: Path) -> bool:
    """Runs that measure something else have directories of their own inside, which a killed process may have
    left empty."""
    if (
        entry.name.startswith(TEMPORARY_PREFIX)
        or entry.name in (FACTORS, SCORES, TRUST)
        or (entry / _MANIFEST).exists()
    ):
        return True
    return entry.is_dir() and all(inner.name.startswith(TEMPORARY_PREFIX) for inner in entry.iterdir())


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"run directory {path} cannot be created or read: {error}")
