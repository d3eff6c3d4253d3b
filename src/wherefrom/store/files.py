"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wherefrom.errors import StoreError
from wherefrom.store.leftovers import remove_leftovers, temporary_prefix

# Folders this process has written to: they are swept once.
_swept: set[Path] = set()


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` beside `path` and rename it into place, so that a kill or a full disk leaves no
    half-written file. Text is UTF-8; what that cannot hold (half of a surrogate pair) becomes an escape.

    Raises:
        StoreError: the file cannot be written; what was there before is still there.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(_encoded(content))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be filled; renamed into place when the block ends without an error
    and removed otherwise.

    Raises:
        StoreError: for any `OSError`; what was there before is still there.
    """
    file = Path(path)
    with _temporary_beside(file) as temporary:
        yield temporary
        _finish(temporary)
        os.replace(temporary, file)
        _settle(file.parent)


def write_new(path: str | Path, content: bytes | str) -> bool:
    """Write a file that is not there yet, whole: of several processes that try, one does.

    Returns:
        Whether this call wrote it; if not, another one has.

    Raises:
        StoreError: the file cannot be written.
    """
    file = Path(path)
    with _temporary_beside(file) as temporary:
        temporary.write_bytes(_encoded(content))
        _finish(temporary)
        try:
            os.link(temporary, file)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with file.open("xb") as stream:
                    stream.write(_encoded(content))
            except FileExistsError:
                return False
        _settle(file.parent)
        return True


@contextmanager
def _temporary_beside(file: Path) -> Iterator[Path]:
    temporary: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = file.parent.absolute()
        if folder not in _swept:
            _swept.add(folder)
            remove_leftovers(folder)
        with tempfile.NamedTemporaryFile(
            "wb", dir=file.parent, prefix=temporary_prefix(), delete=False
        ) as stream:
            temporary = Path(stream.name)
        yield temporary
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{file} could not be written ({error}). Nothing was half-written; free some space or choose "
            "another directory, then run again to resume."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _finish(temporary: Path) -> None:
    """Its content is on the disk before it gets its name."""
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    # NamedTemporaryFile makes files only their owner can read; these are ordinary ones.
    temporary.chmod(0o666 & ~_umask())


def _settle(folder: Path) -> None:
    """The new name is on the disk too, where directories can be told so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encoded(content: bytes | str) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
