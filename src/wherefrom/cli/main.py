"""`wherefrom`: the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wherefrom.cli.attack_command import attack
from wherefrom.cli.change_command import change
from wherefrom.cli.console import PlainConsole
from wherefrom.cli.context import (
    OutOption,
    SolverOption,
    TaskArgument,
    TracebackOption,
    errors,
    one_thread,
    say_where,
    stages,
)
from wherefrom.cli.flip_command import flip
from wherefrom.cli.geometry_command import geometry
from wherefrom.cli.run_command import run
from wherefrom.cli.slices_command import slices
from wherefrom.cli.spectrum_command import spectrum
from wherefrom.cli.study_command import study_command
from wherefrom.studies.labels.study import Labels

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


@app.command()
def audit(
    task: TaskArgument,
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
    poison: Annotated[
        int,
        typer.Option(
            "--poison",
            help="Attack the training set with up to so many edited examples (0, the default: no).",
        ),
    ] = 0,
    shape: Annotated[
        bool, typer.Option("--shape", help="Show the curvature and the gradients of the loss too.")
    ] = False,
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Trace a model's predictions to its training examples, and write one page about it."""
    with errors(traceback):
        from wherefrom.cli.attack_terminal import print_attack
        from wherefrom.cli.audit import AuditOptions, run_audits
        from wherefrom.cli.task_file import load_task
        from wherefrom.cli.terminal import print_result

        console = PlainConsole()
        options = AuditOptions(
            top=top,
            remove=remove,
            queries=queries,
            review=review,
            poison=poison,
            shape=shape,
            solver=solver,
        )
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            results = run_audits([load_task(task)], out, options, on_stage=on_stage)
        for result in results:
            print_result(console, result)
            if result.attack is not None:
                print_attack(console, result.attack, title="Poisoning")
        say_where(console, out / "report.html")


app.command("attack")(attack)
app.command("change")(change)
app.command("flip")(flip)
app.command("geometry")(geometry)
app.command("labels")(study_command(Labels))
app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(run)
app.command("slices")(slices)
app.command("spectrum")(spectrum)


def run_demo(console: Console, out: Path, *, solver: str | None = None, **sizes: int) -> None:
    """The demonstration, with another solver where one is named; `sizes` are those of
    `wherefrom.cli.demo.digits_tasks`."""
    from wherefrom.cli.audit import AuditOptions, run_audits
    from wherefrom.cli.demo import digits_tasks
    from wherefrom.cli.task_file import task_from
    from wherefrom.cli.terminal import print_result

    with one_thread(), stages(console) as on_stage:
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
    say_where(console, out / "report.html")
