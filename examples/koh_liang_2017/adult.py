"""UCI Adult: who earns above 50,000 dollars a year, from the census of 1994; a table with groups in it."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_files import DataError, locate

SUBFOLDERS = ("tabular", "adult")
SOURCE = "adult.data and adult.test are at https://archive.ics.uci.edu/dataset/2/adult."
NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
WORDS = ("workclass", "marital-status", "occupation", "relationship", "race", "sex", "native-country")
_FIELDS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)
_ANSWERS = {"<=50K": -1, ">50K": 1}


@dataclass(frozen=True)
class Table:
    """People as rows of standardised numbers, indicators, and a constant 1 in the last column.

    Attributes:
        x: (n, d), float64.
        y: (n,) of −1 and +1; +1: above 50,000 dollars.
        group: (n,) the group each person belongs to.
        names: of the columns of `x`.
    """

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> Table:
        return Table(self.x[rows], self.y[rows], self.group[rows], self.names)

    def with_labels(self, y: np.ndarray) -> Table:
        return Table(self.x, y, self.group, self.names)


def load_adult(folder: str | Path, group: str = "native-country") -> tuple[Table, Table]:
    """The 32,561 training and the 16,281 test rows, grouped by one of the columns of `WORDS`.

    Numbers are standardised (gains and losses after log(1 + x)) and categories become indicators by the
    training rows alone; a category that only the test rows have gets none.

    Raises:
        DataError: a file is absent, or a row is not one of Adult's.
    """
    train, test = (
        read_rows(locate(Path(folder), name, SUBFOLDERS, SOURCE)) for name in ("adult.data", "adult.test")
    )
    return encode(train, train, group), encode(test, train, group)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one file by the names of their fields, compressed or not; comments are left out.

    Raises:
        DataError: it cannot be read, holds no row, or a row has other fields.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    rows = []
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as stream:
            for number, cells in enumerate(csv.reader(stream, skipinitialspace=True), 1):
                if not cells or cells[0].startswith("|"):
                    continue
                cells = [cell.strip().rstrip(".") for cell in cells]
                if len(cells) != len(_FIELDS) or cells[-1] not in _ANSWERS or not cells[0].isdigit():
                    raise DataError(f"{path}, line {number}: not a row of Adult: {', '.join(cells)[:80]!r}")
                rows.append(dict(zip(_FIELDS, cells)))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the file again.") from error
    if not rows:
        raise DataError(f"{path} holds no row; fetch the file again.")
    return rows


def encode(rows: list[dict[str, str]], train: list[dict[str, str]], group: str) -> Table:
    """Rows as a `Table`, scaled and with the categories of the training rows."""
    columns, names = [], []
    for name in NUMBERS:
        values, reference = (_number(part, name) for part in (rows, train))
        spread = reference.std()
        columns.append((values - reference.mean()) / (spread if spread > 0 else 1.0))
        names.append(name)
    for name in WORDS:
        values = np.array([row[name] for row in rows])
        for category in sorted({row[name] for row in train}):
            columns.append((values == category).astype(np.float64))
            names.append(f"{name} = {category}")
    columns.append(np.ones(len(rows)))
    names.append("constant")
    return Table(
        np.stack(columns, axis=1),
        np.array([_ANSWERS[row["income"]] for row in rows]),
        np.array([row[group] for row in rows]),
        tuple(names),
    )


def _number(rows: list[dict[str, str]], name: str) -> np.ndarray:
    values = np.array([float(row[name]) for row in rows])
    return np.log1p(values) if name.startswith("capital") else values
