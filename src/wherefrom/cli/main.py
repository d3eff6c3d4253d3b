"""`wherefrom`: the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wherefrom.cli.console import PlainConsole
from wherefrom.cli.context import (
    OutOption,
    SolverOption,
    TracebackOption,
    errors,
    one_thread,
    say_where,
    stages,
)
from wherefrom.cli.run_command import run
from wherefrom.cli.study_command import study_command
from wherefrom.report import print_section
from wherefrom.studies.attack.study import Attack
from wherefrom.studies.audit.study import Audit
from wherefrom.studies.change.study import DataChange
from wherefrom.studies.flip.study import Flip
from wherefrom.studies.geometry.study import Geometry
from wherefrom.studies.labels.study import Labels
from wherefrom.studies.runner import page_of, run_study
from wherefrom.studies.slices.study import Slices
from wherefrom.studies.spectra.study import LossSpectrum

app = typer.Typer(
    name="wherefrom",
    help="Where did this prediction come from? Trace it to its training examples, "
    "with an error on each score, and prove it by retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> bool:
    if wanted:
        from wherefrom import __version__

        typer.echo(f"wherefrom {__version__}")
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
    out: OutOption = Path("out/demo"),
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Train two digit readers, and show where their mistakes came from."""
    with errors(traceback):
        run_demo(PlainConsole(), out, solver=solver)


for kind in (Audit, Attack, DataChange, Flip, Geometry, Labels, Slices, LossSpectrum):
    app.command(kind.name)(study_command(kind))
app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(run)


def run_demo(console: Console, out: Path, *, solver: str | None = None, **sizes: int) -> None:
    """The demonstration, with another solver where one is named; `sizes` are those of
    `wherefrom.cli.demo.digits_tasks`."""
    from wherefrom.cli.demo import digits_tasks
    from wherefrom.cli.task_file import task_from

    with one_thread(), stages(console) as say:
        say("training two digit readers on scikit-learn's digits")
        tasks = [task_from(task, source="the demo", default_name="digits") for task in digits_tasks(**sizes)]
        # Seconds of work: computing it again is simpler than deciding whether an older run may be continued.
        answers = run_study(
            Demo(), tasks, out, solver=solver, progress=console.is_terminal, keep=False, say=say
        )
    for answer in answers:
        print_section(console, answer.section)
    say_where(console, page_of(Demo(), out))


class Demo(Audit):
    """An audit whose page asks about the digits."""

    name = "demo"
    question = "Where did these misread digits come from?"
