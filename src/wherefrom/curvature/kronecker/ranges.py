"""Which examples a sum covers, as ranges."""

from __future__ import annotations

from collections.abc import Iterable

from wherefrom.errors import InputError


class Ranges:
    """A set of example numbers as disjoint ranges in order; adjacent ones are joined.

    Args:
        ranges: `(first, stop)` pairs.

    Raises:
        InputError: two of them overlap: what they stand for would count twice.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()):
        joined: list[tuple[int, int]] = []
        for first, stop in sorted((first, stop) for first, stop in ranges if stop > first):
            if joined and first < joined[-1][1]:
                raise InputError(
                    f"examples {first}..{min(stop, joined[-1][1]) - 1} were gathered twice; expected parts "
                    "of the training set that do not overlap"
                )
            if joined and first == joined[-1][1]:
                joined[-1] = (joined[-1][0], stop)
            else:
                joined.append((first, stop))
        self.pairs = tuple(joined)

    def __len__(self) -> int:
        return sum(stop - first for first, stop in self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __str__(self) -> str:
        return ", ".join(f"{first}..{stop - 1}" for first, stop in self.pairs) or "none"

    def joined(self, other: Ranges) -> Ranges:
        """Both together.

        Raises:
            InputError: they overlap.
        """
        return Ranges([*self.pairs, *other.pairs])

    def missing(self, wanted: range) -> Ranges:
        """What of `wanted` is not in here."""
        left, first = [], wanted.start
        for start, stop in self.pairs:
            left.append((first, min(start, wanted.stop)))
            first = max(first, stop)
        return Ranges([*left, (first, wanted.stop)])

    def as_text(self) -> str:
        """For a file's header; `from_text` reads it."""
        return ",".join(f"{first}:{stop}" for first, stop in self.pairs)

    @classmethod
    def from_text(cls, text: str) -> Ranges:
        """Inverse of `as_text`.

        Raises:
            ValueError: no such text.
        """
        return cls([_pair(part) for part in text.split(",") if part])


def _pair(text: str) -> tuple[int, int]:
    first, stop = text.split(":")
    return int(first), int(stop)
