"""Temporary files: named after the process that writes them, and swept once that is dead."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import socket
import time
from pathlib import Path

# Every temporary file starts with this.
TEMPORARY_PREFIX = ".wherefrom-"
_NAME = re.compile(re.escape(TEMPORARY_PREFIX) + r"([0-9a-f]{12})-(\d+)-")
# A file that is being written changes more often than that, in seconds.
_LEFT_AFTER = 3600.0


def temporary_prefix() -> str:
    """What the temporary files of this process begin with."""
    return f"{TEMPORARY_PREFIX}{_place()}-{os.getpid()}-"


def remove_leftovers(folder: str | Path, *, within: bool = False) -> None:
    """Remove the temporary files that killed processes left in a folder: those whose process, on this
    machine, is gone, and those of unknown processes that nobody has written to for an hour. Files of a
    running process are left alone, and so is what cannot be removed: it does no harm.

    Args:
        folder: to be swept.
        within: in the folders inside it too.
    """
    inside = Path(folder).rglob if within else Path(folder).glob
    with contextlib.suppress(OSError):
        for file in list(inside(f"{TEMPORARY_PREFIX}*")):
            # Another process may have been quicker, or the file be another user's.
            with contextlib.suppress(OSError):
                if _left(file):
                    file.unlink()


def _left(file: Path) -> bool:
    if file.is_dir() and not file.is_symlink():
        return False
    found = _NAME.match(file.name)
    # Windows has no harmless way to ask whether a process lives.
    if found is None or found[1] != _place() or os.name == "nt":
        return time.time() - file.lstat().st_mtime > _LEFT_AFTER
    return not _alive(int(found[2]))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


@functools.cache
def _place() -> str:
    """The machine since it was started, and the part of it in which process numbers are counted."""
    words = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            words.append(read())
        except OSError:  # not Linux
            words.append("")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
