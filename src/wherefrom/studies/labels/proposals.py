"""How often proposed labels were the true ones where that could be measured."""

from __future__ import annotations

# Smallest and largest shares in per cent over data sets and models, of the wrong labels and of the proposed
# changes; `docs/benchmarks-labels.md` has them and the commands. Mistakes are labels that people or programs
# got wrong, planted ones were changed on purpose.
RIGHT_FOR_MISTAKES, RIGHT_OF_CHANGES = (23, 42), (3, 35)
RIGHT_FOR_PLANTED, RIGHT_OF_CHANGES_PLANTED = (14, 98), (4, 86)


def _range(shares: tuple[int, int]) -> str:
    return f"{shares[0]} to {shares[1]} %"


PROPOSALS_RIGHT = (
    "In benchmarks with labels that people or programs got wrong, the proposal was the true label for "
    f"{_range(RIGHT_FOR_MISTAKES)} of them, and {_range(RIGHT_OF_CHANGES)} of all proposed changes were "
    f"right (planted mistakes: {_range(RIGHT_FOR_PLANTED)} and {_range(RIGHT_OF_CHANGES_PLANTED)}). "
    "Look at the example before you change its label."
)
