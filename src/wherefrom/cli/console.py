"""The terminal: all that the commands print goes through here, and nothing that data holds steers it."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.panel import Panel
from rich.segment import Segment
from rich.text import Span, Text

from wherefrom.plain_text import visible


class PlainConsole(Console):
    """A console on which text is text: no markup, no control characters, none of the marks that reverse the
    direction of writing; they are written out instead."""

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich does, of what is visible."""
        # A text before it is wrapped, so that its width is that of what is shown.
        shown = _visible_text(renderable) if isinstance(renderable, Text) else renderable
        for segment in super().render(shown, options):
            text = segment.text if segment.control else visible(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


def print_traceback_safely() -> None:
    """From here on an error that nobody catches is shown like everything else."""

    def shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        PlainConsole(stderr=True).print(Text(text), soft_wrap=True, end="")

    sys.excepthook = shown


@contextmanager
def warnings_shown_safely() -> Iterator[None]:
    """Warnings, which may quote data, are shown like everything else."""
    before = warnings.showwarning

    def shown(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = warnings.formatwarning(message, category, filename, lineno)
        PlainConsole(stderr=True).print(Text(text), soft_wrap=True, end="")

    warnings.showwarning = shown
    try:
        yield
    finally:
        warnings.showwarning = before


def _visible_text(text: Text) -> Text:
    """The same with its styles, if it has to be changed at all."""
    plain = text.plain
    shown = visible(plain)
    if shown == plain:
        return text
    at = [0, *accumulate(len(visible(character)) for character in plain)]
    made = text.blank_copy(shown)
    made.spans = [Span(at[min(s, len(plain))], at[min(e, len(plain))], style) for s, e, style in text.spans]
    return made


def print_error(console: Console, error: BaseException, *, hint: str) -> None:
    """The message in a panel, and where to learn more."""
    name = type(error).__name__
    console.print(
        Panel(
            Text(str(error) or name), title=Text(name, style="bold"), title_align="left", border_style="red"
        )
    )
    if hint:
        console.print(Text(hint, style="dim"))
