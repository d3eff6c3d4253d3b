"""What a benchmark says of its progress."""

from __future__ import annotations

import sys
import time


class Progress:
    """One line, rewritten, on a terminal; plain lines elsewhere.

    Args:
        terminal_only: messages with this text are too many for plain lines.
    """

    def __init__(self, terminal_only: str) -> None:
        self._live, self._start = sys.stderr.isatty(), time.monotonic()
        self._terminal_only = terminal_only

    def __call__(self, message: str) -> None:
        line = f"[{time.monotonic() - self._start:6.0f} s] {message}"
        if self._live:
            print(f"\r\033[2K{line[:100]}", end="", file=sys.stderr, flush=True)
        elif self._terminal_only not in message:
            print(line, file=sys.stderr, flush=True)
