"""Small tables of ranked training examples, readable in a terminal, a notebook and pandas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import pandas


class RankedRows:
    """Training examples in order, as columns that are read row by row."""

    COLUMNS: ClassVar[tuple[str, ...]]
    train: np.ndarray

    def __len__(self) -> int:
        return len(self.train)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        columns = (np.asarray(getattr(self, name), dtype=object).tolist() for name in self.COLUMNS)
        for row in zip(*columns):
            yield dict(zip(self.COLUMNS, row))

    def to_pandas(self) -> pandas.DataFrame:
        """The same table as a data frame; errors that are not known are missing values."""
        return frame_of(self)


@dataclass(frozen=True)
class Ranking(RankedRows):
    """Training examples in order, most helpful (or harmful) first, query after query.

    Attributes:
        kind: `"helpful"` or `"harmful"`.
        query, train: indices.
        score, estimate, bound, predicted_change: as in `Scores`.
    """

    COLUMNS: ClassVar = ("query", "train", "score", "error", "bound", "predicted_change")

    kind: str
    query: np.ndarray
    train: np.ndarray
    score: np.ndarray
    error: np.ndarray
    bound: np.ndarray
    predicted_change: np.ndarray

    def __repr__(self) -> str:
        lines = [
            f"{self.kind} training examples",
            f"{'query':>6} {'train':>7} {'score':>12} {'± error':>9}  predicted change",
        ]
        for row in self:
            lines.append(
                f"{row['query']:>6} {row['train']:>7} {row['score']:>12.5g} {error_text(row['error']):>9}  "
                f"{row['predicted_change']:>+.3e}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{row['query']}</td><td>{row['train']}</td><td>{row['score']:.5g}</td>"
            f"<td>{error_text(row['error'])}</td><td>{row['predicted_change']:+.3e}</td></tr>"
            for row in self
        )
        head = "<tr><th>query</th><th>train</th><th>score</th><th>± error</th><th>predicted change</th></tr>"
        return f"<table><caption>{self.kind}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


def known(errors: np.ndarray) -> np.ndarray:
    """Errors with NaN, a missing value, for those that are infinite because nothing is known."""
    return np.where(np.isfinite(errors), errors, np.nan).astype(errors.dtype)


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows as a data frame; errors that are not known are missing values."""
    import pandas

    frame = pandas.DataFrame(list(rows))
    errors = [name for name in ("error", "bound", "standard_error") if name in frame]
    return frame.assign(**{name: known(frame[name].to_numpy()) for name in errors})


def error_text(estimate: float) -> str:
    """An expected error, or that none is known."""
    return f"{estimate:.1e}" if math.isfinite(estimate) else "unknown"
