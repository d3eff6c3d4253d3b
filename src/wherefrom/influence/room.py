"""Whether results fit, said before they are computed."""

from __future__ import annotations

import torch

from wherefrom.errors import OutOfMemoryError
from wherefrom.memory import available_memory, fitting
from wherefrom.task import Objective

# Of what is free, for the results; the rest is for the work.
_FREE_SHARE = 0.9
# Values, estimate and bound.
NUMBERS_PER_SCORE = 3


def require_room_for_scores(
    objective: Objective, rows: int, what: str = "queries", numbers: int = NUMBERS_PER_SCORE
) -> None:
    """Refuse score matrices, `rows` × training examples with their errors, that exceed a memory budget the
    user stated, or what is free.

    Raises:
        OutOfMemoryError: with the numbers, and how many rows would fit.
    """
    each = objective.n * numbers * objective.dtype.itemsize
    needed = rows * each
    free = _FREE_SHARE * available_memory(torch.device("cpu"))
    room, words, larger = free, f"{free / 1e9:.3g} GB are free for them", ""
    if objective.memory_stated and objective.memory < room:
        room, words = objective.memory, f"the memory budget is {objective.memory / 1e9:.3g} GB"
        larger = f", or give memory= of at least {needed / 1e6:,.0f}MB"
    if needed <= room:
        return
    most = int(room // each)
    fewer = f"Pass at most {most:,} {what} at a time" if most else "Attribute to a part of the training set"
    if what != "queries":
        fewer += f". Use fewer, larger {what}"
    elif most and numbers == NUMBERS_PER_SCORE:
        fewer += " (score_parts does that)"
    raise OutOfMemoryError(
        f"{rows:,} {what} × {objective.n:,} training examples need {needed / 1e9:.3g} GB for scores and "
        f"errors ({numbers} numbers each), and {words}. {fewer}{larger}."
    )


def rows_that_fit(objective: Objective) -> int:
    """Queries, one at least, of which scores and errors fit the memory budget and what is free."""
    free = _FREE_SHARE * available_memory(torch.device("cpu"))
    each = objective.n * NUMBERS_PER_SCORE * objective.dtype.itemsize
    return fitting(min(free, objective.memory), each)
