"""The training examples that matter most for a group of queries, in order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wherefrom.influence.tables import known

if TYPE_CHECKING:
    import pandas

_COLUMNS = ("train", "train_group", "score", "error", "change")


@dataclass(frozen=True)
class GroupRanking:
    """Training examples, most harmful (or helpful) for one query group first.

    Attributes:
        kind: `"harmful"` or `"helpful"`.
        query_group: for which group of queries.
        train: training indices, `(k,)`.
        train_group: the group or groups of each, empty for none.
        score: for the mean measurement of the query group, `(k,)`.
        error: the solver's error expected in the score.
        change: predicted change of that mean when the one example is removed, `score / n`.
    """

    kind: str
    query_group: str
    train: np.ndarray
    train_group: tuple[str, ...]
    score: np.ndarray
    error: np.ndarray
    change: np.ndarray

    def __len__(self) -> int:
        return len(self.train)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        columns = (
            self.train.tolist(),
            self.train_group,
            self.score.tolist(),
            self.error.tolist(),
            self.change.tolist(),
        )
        for row in zip(*columns):
            yield dict(zip(_COLUMNS, row))

    def to_pandas(self) -> pandas.DataFrame:
        """The same rows as a data frame; errors that are not known are missing."""
        import pandas

        return pandas.DataFrame(list(self), columns=list(_COLUMNS)).assign(error=known(self.error))

    def __repr__(self) -> str:
        lines = [
            f"most {self.kind} training examples for {self.query_group}",
            f"{'train':>7} {'score':>12} {'± error':>9} {'change':>11}  group",
        ]
        for row in self:
            error = f"{row['error']:.1e}" if math.isfinite(row["error"]) else "unknown"
            lines.append(
                f"{row['train']:>7} {row['score']:>12.5g} {error:>9} {row['change']:>+11.3e}  "
                f"{row['train_group']}"
            )
        return "\n".join(lines)
