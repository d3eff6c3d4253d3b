"""`wherefrom flip`."""

from __future__ import annotations

from typing import Annotated

import typer

from wherefrom.cli.console import PlainConsole
from wherefrom.cli.context import (
    OutOption,
    SolverOption,
    TaskArgument,
    TracebackOption,
    errors,
    say_where,
    stages,
)


def flip(
    task: TaskArgument,
    out: OutOption,
    queries: Annotated[int, typer.Option("--queries", help="Queries at most, spread evenly over all.")] = 50,
    max_share: Annotated[
        float, typer.Option("--max-share", help="Largest set, as a share of the training set.")
    ] = 0.01,
    confirm: Annotated[
        bool | None,
        typer.Option(
            "--confirm/--no-confirm", help="Retrain without each set (default: if the task has a recipe)."
        ),
    ] = None,
    retrainings: Annotated[
        int, typer.Option("--retrainings", help="Per query at most; each one enlarges the set that failed.")
    ] = 3,
    top: Annotated[int, typer.Option("--top", help="Queries listed and shown, smallest sets first.")] = 12,
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """What would flip this prediction? Find the smallest set of training examples without which each query is
    predicted otherwise, and the share of predictions that fall to removing so little.
    """
    with errors(traceback):
        from wherefrom.cli.flip import FlipOptions, run_flips
        from wherefrom.cli.flip_terminal import print_flips
        from wherefrom.cli.task_file import load_task

        console = PlainConsole()
        options = FlipOptions(queries, max_share, confirm, retrainings, top, solver)
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            result = run_flips(load_task(task), out, options, on_stage=on_stage)
        print_flips(console, result)
        say_where(console, out / "report.html", result.trust)
