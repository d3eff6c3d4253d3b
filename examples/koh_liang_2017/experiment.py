"""What the experiments share: command line, statistics, one JSON object, rows of the page's table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from data_files import DataError

from wherefrom.store import write_atomically

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One line of the page's table.

    Attributes:
        figure: where it stands in the paper: `"2 right"`, `"§5.3"`.
        what: the quantity, in words.
        paper: the published number; empty where there is none.
        here: ours.
    """

    figure: str
    what: str
    paper: str
    here: str


def parser(description: str) -> argparse.ArgumentParser:
    """The options every experiment has: where the data are, where results go, JSON, quick."""
    result = argparse.ArgumentParser(description=description.splitlines()[0])
    result.add_argument(
        "--data",
        type=Path,
        default=default_data(),
        metavar="DIR",
        help="folder with the data files (default: $WHEREFROM_DATA, else ../shared/data by the repository)",
    )
    result.add_argument(
        "--out", type=Path, default=Path("out/figures"), metavar="DIR", help="folder for results"
    )
    result.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, nothing else"
    )
    result.add_argument("--quick", action="store_true", help="a smaller run, of a minute or two at most")
    return result


def default_data() -> Path | None:
    """$WHEREFROM_DATA; else the data folder beside the repository, where there is one; else none."""
    named = os.environ.get("WHEREFROM_DATA")
    if named:
        return Path(named)
    beside = REPOSITORY.parent / "shared" / "data"
    return beside if beside.is_dir() else None


def require_data(folder: Path | None) -> Path:
    """The folder asked for, or the error that says how to ask.

    Raises:
        DataError: neither --data nor WHEREFROM_DATA was given, or the folder does not exist.
    """
    if folder is None:
        raise DataError(
            "no data folder: pass --data DIR, or set the environment variable WHEREFROM_DATA, to a folder "
            "that holds the data files named in the README of this example."
        )
    if not folder.is_dir():
        raise DataError(
            f"the data folder {folder} does not exist; pass --data DIR with the files named in the README."
        )
    return folder


def say(message: str) -> None:
    """One line of progress on standard error, so that standard output stays one JSON object."""
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def write(result: dict[str, Any], name: str, options: argparse.Namespace) -> None:
    """Write the result, and whether it is of a quick run, as `name`.json in the output folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, "quick": options.quick}, indent=2, allow_nan=False)
    write_atomically(options.out / f"{name}.json", text + "\n")


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the result: as one JSON object, or as indented lines."""
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        print("\n".join(as_lines(result)))
        print(f"written to {options.out}")


def as_lines(values: dict[str, Any], indent: str = "") -> list[str]:
    """Nested numbers as readable lines."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *as_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<32} {f'{value:.6g}' if isinstance(value, float) else value}")
    return lines


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run an experiment's `main`; missing data end it with one readable line instead of a traceback."""
    try:
        main(None)
    except DataError as error:
        sys.exit(f"error: {error}")


def agreement(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """How well predictions match what retraining gave.

    Returns `pearson`, `spearman`, `slope` (least squares, predicted on actual: 1 is the diagonal) and
    `relative_error` (‖predicted − actual‖ / ‖actual‖, which no rescaling or shift can hide).
    """
    if len(predicted) != len(actual) or len(actual) < 3:
        raise ValueError(
            f"agreement needs two equally long series of at least 3, got {len(predicted)}, {len(actual)}"
        )
    slope = float(np.polyfit(actual, predicted, 1)[0])
    return {
        "pearson": float(scipy.stats.pearsonr(predicted, actual).statistic),
        "spearman": float(scipy.stats.spearmanr(predicted, actual).statistic),
        "slope": slope,
        "relative_error": float(np.linalg.norm(predicted - actual) / np.linalg.norm(actual)),
    }
