"""Counts given on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(smallest: int) -> Callable[[str], int]:
    """For `add_argument(type=…)`: a whole number that is not smaller."""

    def count(text: str) -> int:
        if not text.strip().lstrip("-").isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least {smallest}")
        return int(text)

    return count
