"""Progress bars with an estimate of the time left; silent when standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """A running bar; `advance` moves it, `describe` changes its label."""

    def __init__(self, progress: Progress, label: str, total: int | None):
        self._progress = progress
        self._task = progress.add_task(label, total=total)

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def describe(self, label: str) -> None:
        self._progress.update(self._task, description=label)


@contextmanager
def progress_bar(label: str, total: int | None, *, enabled: bool = True) -> Iterator[Bar]:
    """A bar over `total` steps (`None`: unknown), shown on standard error if that is a terminal and
    `enabled`."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (enabled and sys.stderr.isatty()),
    )
    with progress:
        yield Bar(progress, label, total)
