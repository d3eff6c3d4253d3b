"""How often proposed labels were the true ones where that could be measured."""

from __future__ import annotations

# Smallest and largest shares in per cent over data sets and models; `docs/benchmarks-labels.md` has them and
# the command. Mistakes are labels that people or programs got wrong, planted ones were changed on purpose.
RIGHT_FOR_MISTAKES = (23, 42)
RIGHT_FOR_PLANTED = (14, 98)
RIGHT_OF_PROPOSED = (3, 35)

PROPOSALS_RIGHT = (
    f"In benchmarks the proposal was the true label for {RIGHT_FOR_MISTAKES[0]} to {RIGHT_FOR_MISTAKES[1]} % "
    f"of the labels that people or programs got wrong ({RIGHT_FOR_PLANTED[0]} to {RIGHT_FOR_PLANTED[1]} % of "
    f"planted mistakes), and there only {RIGHT_OF_PROPOSED[0]} to {RIGHT_OF_PROPOSED[1]} % of all proposed "
    "changes were right: look at the example before you change its label."
)
