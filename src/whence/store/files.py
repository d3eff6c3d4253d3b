"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whence.errors import StoreError

# What a killed process leaves behind starts with this.
TEMPORARY_PREFIX = ".whence-"
# A file that is being written changes more often than that, in seconds.
_LEFT_AFTER = 3600.0


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` beside `path` and rename it into place, so that a kill or a full disk leaves no
    half-written file.

    Raises:
        StoreError: the file cannot be written; what was there before is still there.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be filled; renamed into place when the block ends without an error
    and removed otherwise.

    Raises:
        StoreError: for any `OSError`; what was there before is still there.
    """
    file = Path(path)
    temporary: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "wb", dir=file.parent, prefix=TEMPORARY_PREFIX, delete=False
        ) as stream:
            temporary = Path(stream.name)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        # NamedTemporaryFile makes files only their owner can read; these are ordinary ones.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, file)
        temporary = None
    except OSError as error:
        raise StoreError(
            f"{file} could not be written ({error}). Nothing was half-written; free some space or choose "
            "another directory, then run again to resume."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary files that killed processes left in a folder: those nobody has written to for an
    hour.

    Raises:
        StoreError: one cannot be removed.
    """
    oldest = time.time() - _LEFT_AFTER
    try:
        for file in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)
    except FileNotFoundError:  # another process was quicker
        return
    except OSError as error:
        raise StoreError(f"what a killed run left in {folder} cannot be removed: {error}") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
