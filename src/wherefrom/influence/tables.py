"""Small tables of ranked training examples, readable in a terminal, a notebook and pandas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas

COLUMNS = ("query", "train", "score", "error", "bound", "predicted_change")


@dataclass(frozen=True)
class Ranking:
    """Training examples in order, most helpful (or harmful) first, query after query.

    Attributes:
        kind: `"helpful"` or `"harmful"`.
        query, train: indices.
        score, estimate, bound, predicted_change: as in `Scores`.
    """

    kind: str
    query: np.ndarray
    train: np.ndarray
    score: np.ndarray
    error: np.ndarray
    bound: np.ndarray
    predicted_change: np.ndarray

    def __len__(self) -> int:
        return len(self.train)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in zip(*(getattr(self, column).tolist() for column in COLUMNS)):
            yield dict(zip(COLUMNS, row))

    def to_pandas(self) -> pandas.DataFrame:
        """The same table as a data frame; errors that are not known are missing values."""
        import pandas

        columns = {column: getattr(self, column) for column in COLUMNS}
        return pandas.DataFrame({**columns, "error": known(self.error), "bound": known(self.bound)})

    def __repr__(self) -> str:
        lines = [
            f"{self.kind} training examples",
            f"{'query':>6} {'train':>7} {'score':>12} {'± error':>9}  predicted change",
        ]
        for row in self:
            lines.append(
                f"{row['query']:>6} {row['train']:>7} {row['score']:>12.5g} {_error(row['error']):>9}  "
                f"{row['predicted_change']:>+.3e}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{row['query']}</td><td>{row['train']}</td><td>{row['score']:.5g}</td>"
            f"<td>{_error(row['error'])}</td><td>{row['predicted_change']:+.3e}</td></tr>"
            for row in self
        )
        head = "<tr><th>query</th><th>train</th><th>score</th><th>± error</th><th>predicted change</th></tr>"
        return f"<table><caption>{self.kind}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


def known(errors: np.ndarray) -> np.ndarray:
    """Errors with NaN, a missing value, for those that are infinite because nothing is known."""
    return np.where(np.isfinite(errors), errors, np.nan).astype(errors.dtype)


def _error(estimate: float) -> str:
    """An expected error, or that none is known."""
    return f"{estimate:.1e}" if math.isfinite(estimate) else "unknown"
