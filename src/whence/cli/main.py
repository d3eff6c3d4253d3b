"""`whence`: the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer(
    name="whence",
    help="Whence did this prediction come from? Trace it to its training examples, "
    "with an error on each score, and prove it by retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_Solver = Annotated[
    str | None,
    typer.Option("--solver", help="Name of a solver: exact, cg, ekfac, kfac, … (default: the task's)."),
]
_Traceback = Annotated[bool, typer.Option("--traceback", help="Show the full Python traceback of an error.")]


def _version(wanted: bool) -> bool:
    if wanted:
        from whence import __version__

        typer.echo(f"whence {__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Kept for the options that come before a command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory for the page and the files.")] = Path(
        "out/demo"
    ),
    solver: _Solver = None,
    traceback: _Traceback = False,
) -> None:
    """Train two digit readers, and show where their mistakes came from."""
    with _errors(traceback):
        run_demo(Console(), out, solver=solver)


@app.command()
def audit(
    task: Annotated[
        Path, typer.Argument(help="Python file that defines model, train, queries, loss (and a recipe).")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Directory for the page and the files; a killed audit resumes there."),
    ],
    top: Annotated[int, typer.Option("--top", help="Helpful and harmful examples shown per query.")] = 5,
    remove: Annotated[
        int | None,
        typer.Option("--remove", help="Examples to leave out and retrain without (0: none; default: 20)."),
    ] = None,
    queries: Annotated[int, typer.Option("--queries", help="Queries at most: those of largest loss.")] = 8,
    review: Annotated[
        int,
        typer.Option(
            "--review", help="Training examples ranked by self-influence, of largest loss (0: none)."
        ),
    ] = 2000,
    solver: _Solver = None,
    traceback: _Traceback = False,
) -> None:
    """Trace a model's predictions to its training examples, and write one page about it."""
    with _errors(traceback):
        from whence.cli.audit import AuditOptions, run_audits
        from whence.cli.task_file import load_task
        from whence.cli.terminal import print_result

        console = Console()
        options = AuditOptions(top=top, remove=remove, queries=queries, review=review, solver=solver)
        with _stages(console) as on_stage:
            on_stage(f"loading {task}")
            results = run_audits([load_task(task)], out, options, on_stage=on_stage)
        for result in results:
            print_result(console, result)
        _closing(console, out)


def run_demo(console: Console, out: Path, *, solver: str | None = None, **sizes: int) -> None:
    """The demonstration, with another solver where one is named; `sizes` are those of
    `whence.demo.digits_tasks`."""
    from whence.cli.audit import AuditOptions, run_audits
    from whence.cli.task_file import task_from
    from whence.cli.terminal import print_result
    from whence.demo import digits_tasks

    with _one_thread(), _stages(console) as on_stage:
        on_stage("training two digit readers on scikit-learn's digits")
        tasks = [task_from(task, source="the demo", default_name="digits") for task in digits_tasks(**sizes)]
        # Seconds of work: computing it again is simpler than deciding whether an older run may be continued.
        results = run_audits(
            tasks,
            out,
            AuditOptions(solver=solver, resumable=False),
            title="Where did these misread digits come from?",
            on_stage=on_stage,
        )
    for result in results:
        print_result(console, result)
    _closing(console, out)


def _closing(console: Console, out: Path) -> None:
    console.print()
    console.print(
        Text.assemble("The page with everything: ", (str(out / "report.html"), "bold")), soft_wrap=True
    )


@contextmanager
def _stages(console: Console) -> Iterator[Callable[[str], None]]:
    """Say what is being done, one line per stage."""

    def say(stage: str) -> None:
        console.print(Text(f"• {stage}", style="dim"))

    yield say


@contextmanager
def _one_thread() -> Iterator[None]:
    """These models are too small to gain from threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _errors(traceback: bool) -> Iterator[None]:
    """Errors as a panel on standard error: exit status 2 for what Whence refuses, 1 for the rest."""
    from whence.cli.terminal import print_error
    from whence.errors import WhenceError

    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if traceback:
            raise
        known = isinstance(error, WhenceError)
        hint = (
            ""
            if known and error.__cause__ is None
            else "Run again with --traceback to see where it was raised."
        )
        print_error(Console(stderr=True), error, hint=hint)
        raise typer.Exit(2 if known else 1) from error
