"""Scores of many queries, some at a time: no more of them in memory than the budget holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from wherefrom.influence.compute import compute_scores
from wherefrom.influence.fit import Fit
from wherefrom.influence.measurements import Measurement
from wherefrom.influence.room import rows_that_fit
from wherefrom.influence.scores import Scores
from wherefrom.task import Data


def score_parts(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    refine: int = 0,
) -> Iterator[tuple[range, Scores]]:
    """`compute_scores` for consecutive parts of the queries, as many at a time as results of fit the memory
    budget: pairs (which queries, their scores). Keep what is wanted of each part (`helpful(k)`, say) and let
    the rest go.

    Args:
        fitted, queries, measurement, refine: as for `compute_scores`.

    Raises:
        InputError, NonFiniteError: bad queries.
        OutOfMemoryError: the scores of a single query do not fit.
    """
    data = Data(queries)
    size = rows_that_fit(fitted.objective)
    for start in range(0, data.n, size):
        part = range(start, min(start + size, data.n))
        some = data.edited(drop=set(range(data.n)).difference(part))
        yield part, compute_scores(fitted, some, measurement, refine=refine)
