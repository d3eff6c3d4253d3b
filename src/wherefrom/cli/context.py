"""What the commands share: their options, their stages, their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from wherefrom.plain_text import one_line

if TYPE_CHECKING:
    from wherefrom.influence import Trust

TaskArgument = Annotated[
    Path, typer.Argument(help="Python file that defines model, train, queries, loss (and a recipe).")
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory for the page and the files.")]
SolverOption = Annotated[
    str | None,
    typer.Option("--solver", help="Name of a solver: exact, cg, ekfac, kfac, … (default: the task's)."),
]
TracebackOption = Annotated[
    bool, typer.Option("--traceback", help="Show the full Python traceback of an error.")
]


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str], None]]:
    """Say what is being done, one line per stage."""

    def say(stage: str) -> None:
        console.print(Text(f"• {one_line(stage)}", style="dim"))

    yield say


@contextmanager
def one_thread() -> Iterator[None]:
    """These models are too small to gain from threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def errors(traceback: bool) -> Iterator[None]:
    """Errors as a panel on standard error: exit status 2 for what Wherefrom refuses, 1 for the rest."""
    from wherefrom.cli.console import (
        PlainConsole,
        print_error,
        print_traceback_safely,
        warnings_shown_safely,
    )
    from wherefrom.errors import WherefromError

    try:
        with warnings_shown_safely():
            yield
    except typer.Exit:
        raise
    except Exception as error:
        if traceback:
            print_traceback_safely()
            raise
        known = isinstance(error, WherefromError)
        hint = (
            ""
            if known and error.__cause__ is None
            else "Run again with --traceback to see where it was raised."
        )
        print_error(PlainConsole(stderr=True), error, hint=hint)
        raise typer.Exit(2 if known else 1) from error


def say_where(console: Console, page: Path, trust: Trust | None = None) -> None:
    """The last lines of a command: how far to trust what it printed, and where its page is."""
    console.print()
    if trust is not None:
        console.print(
            Text(trust.words, style={"good": "green", "fair": "yellow", "poor": "red"}[trust.level])
        )
        console.print()
    console.print(Text.assemble("The page with everything: ", (str(page), "bold")), soft_wrap=True)
