"""Progress bars with an estimate of the time left; silent when standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# The display in use, shared by bars inside bars: a terminal has room for one.
_display: ContextVar[Progress | None] = ContextVar("display", default=None)


class Bar:
    """A running bar; `advance` moves it."""

    def __init__(self, progress: Progress, label: str, total: int | None):
        self._progress = progress
        self._task = progress.add_task(label, total=total)

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def remove(self) -> None:
        self._progress.remove_task(self._task)


@contextmanager
def progress_display(enabled: bool = True) -> Iterator[Progress]:
    """The display in use, or a new one on standard error, silent unless that is a terminal and `enabled`."""
    outer = _display.get()
    if outer is not None:
        yield outer
        return
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (enabled and sys.stderr.isatty()),
    )
    token = _display.set(progress)
    try:
        with progress:
            yield progress
    finally:
        _display.reset(token)


@contextmanager
def progress_bar(label: str, total: int | None, *, enabled: bool = True) -> Iterator[Bar]:
    """A bar over `total` steps (`None`: unknown). Inside another bar it shows below it, and only if that one
    shows."""
    with progress_display(enabled) as display:
        bar = Bar(display, label, total)
        try:
            yield bar
        finally:
            bar.remove()


def say(text: str, *, enabled: bool = True) -> None:
    """A line above the bars, where these would be shown."""
    display = _display.get()
    shown = enabled and sys.stderr.isatty() if display is None else not display.disable
    if shown:
        # Without bars nothing is redrawn: the line alone.
        console = Console(stderr=True) if display is None else display.console
        console.print(text, markup=False, highlight=False)
