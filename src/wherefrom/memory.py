"""Memory budgets in bytes, and errors that say which stage ran out and which setting lowers its use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from wherefrom.arguments import number
from wherefrom.errors import InputError, OutOfMemoryError

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
# "auto" leaves room for the model, the scores and everything else that runs on the machine.
_AUTO_FRACTION = 0.25
_AUTO_CEILING = 4 * 2**30


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on `device` now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if found:
            return int(found.group(1)) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def memory_budget(memory: str | int | float, device: torch.device) -> int:
    """Bytes from `"auto"` (a quarter of what is free, at most 4 GiB), a number, or text such as `"2GB"`,
    `"512MiB"`.

    Raises:
        InputError: text that is no size, or a budget below one byte.
    """
    if memory == "auto":
        return min(int(available_memory(device) * _AUTO_FRACTION), _AUTO_CEILING)
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]i?)?b?\s*", memory.lower())
        if found is None:
            raise InputError(
                f"memory={memory!r}: expected 'auto', bytes as a number, or text like '2GB' or '512MiB'"
            )
        memory = float(found.group(1)) * _UNITS[found.group(2) or ""]
    words = "'auto', text like '2GB', or at least one byte as a finite number"
    return int(number("memory", memory, least=1, expected=words))


def fitting(room: int | float, each: int | float, most: int | float | None = None) -> int:
    """How many things of `each` bytes are taken together: what fits into `room` bytes, at least one and
    at most `most`."""
    count = room // max(1, each)
    return int(max(1, count if most is None else min(most, count)))


@contextmanager
def memory_errors(stage: str, remedy: str) -> Iterator[None]:
    """Turn an allocator's failure inside the block into `OutOfMemoryError` naming `stage` and `remedy`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_allocation_failure(error):
            raise
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise OutOfMemoryError(f"out of memory while {stage}. {remedy} ({what})") from error


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an allocator raised this, whatever its type."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator raises a plain RuntimeError, worded differently on Linux, Windows and with CUDA.
    text = str(error)
    return any(words in text for words in ("can't allocate memory", "not enough memory", "out of memory"))
