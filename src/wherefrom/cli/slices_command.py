"""`wherefrom slices`."""

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


def slices(
    task: TaskArgument,
    out: OutOption,
    top: Annotated[
        int, typer.Option("--top", help="Most harmful training examples listed per query group.")
    ] = 5,
    clusters: Annotated[
        int, typer.Option("--clusters", help="Clusters of training examples (0: where their harm differs).")
    ] = 0,
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Find which groups of training examples carry the error of which groups of queries.

    The task file names them: train_groups and query_groups, one name per example. With a validation set it
    also finds clusters of training examples that hurt it together.
    """
    with errors(traceback):
        from wherefrom.cli.slices import SlicesOptions, run_slices
        from wherefrom.cli.slices_terminal import print_slices
        from wherefrom.cli.task_file import load_task

        console = PlainConsole()
        options = SlicesOptions(top=top, clusters=clusters, solver=solver)
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            result = run_slices(load_task(task), out, options, on_stage=on_stage)
        print_slices(console, result)
        say_where(console, out / "report.html", result.trust)
