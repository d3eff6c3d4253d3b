"""How often proposed labels were the true ones where that could be measured."""

from __future__ import annotations

# Smallest and largest share of the wrong labels, in per cent, for which the proposal was the true label, over
# data sets and models; `docs/benchmarks-labels.md` has the command.
RIGHT_FOR_MISTAKES = (31, 53)
RIGHT_FOR_PLANTED = (14, 98)

PROPOSALS_RIGHT = (
    f"In benchmarks the proposal was the true label for {RIGHT_FOR_MISTAKES[0]} to {RIGHT_FOR_MISTAKES[1]} % "
    f"of the labels that people or programs got wrong, and for {RIGHT_FOR_PLANTED[0]} to "
    f"{RIGHT_FOR_PLANTED[1]} % of planted mistakes: look at the example before you change its label."
)
