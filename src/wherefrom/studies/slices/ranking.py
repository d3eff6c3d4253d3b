"""The training examples that matter most for a group of queries, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wherefrom.influence.tables import RankedRows, error_text


@dataclass(frozen=True)
class GroupRanking(RankedRows):
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

    COLUMNS: ClassVar = ("train", "train_group", "score", "error", "change")

    kind: str
    query_group: str
    train: np.ndarray
    train_group: tuple[str, ...]
    score: np.ndarray
    error: np.ndarray
    change: np.ndarray

    def __repr__(self) -> str:
        lines = [
            f"most {self.kind} training examples for {self.query_group}",
            f"{'train':>7} {'score':>12} {'± error':>9} {'change':>11}  group",
        ]
        for row in self:
            lines.append(
                f"{row['train']:>7} {row['score']:>12.5g} {error_text(row['error']):>9} "
                f"{row['change']:>+11.3e}  {row['train_group']}"
            )
        return "\n".join(lines)
