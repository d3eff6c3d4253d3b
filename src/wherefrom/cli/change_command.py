"""`wherefrom change`."""

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


def change(
    task: TaskArgument,
    out: OutOption,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", help="Training examples to take out: 17,212 or 10-20 or @file of indices."),
    ] = None,
    relabel: Annotated[
        list[str] | None,
        typer.Option("--relabel", help="Give others a label: 5=3, 10-20=cat. May be repeated, as all edits."),
    ] = None,
    upweight: Annotated[
        list[str] | None, typer.Option("--upweight", help="Let others count more or less often: 8=2.")
    ] = None,
    order: Annotated[
        str,
        typer.Option("--order", help="Of the prediction: first, second, newton, optimum, or auto."),
    ] = "auto",
    reduction: Annotated[
        str | None,
        typer.Option("--reduction", help="What the recipe minimises: mean or sum (default: the task's)."),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Carry it out with the task's recipe, and compare.")
    ] = False,
    grow: Annotated[
        str | None,
        typer.Option("--grow", help="Remove the first 1,5,20 of --remove as well: how far to trust it."),
    ] = None,
    queries: Annotated[int, typer.Option("--queries", help="Queries at most: those of largest loss.")] = 8,
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """What would happen if the training data were changed? Predict it for each query, and retrain to see.

    Edits compose: --remove 17,212 --relabel 5=3 --upweight 8=2 is one change.
    """
    with errors(traceback):
        from wherefrom.cli.change import ChangeOptions, run_change
        from wherefrom.cli.change_terminal import print_change
        from wherefrom.cli.task_file import load_task

        console = PlainConsole()
        options = ChangeOptions(
            tuple(remove or ()),
            tuple(relabel or ()),
            tuple(upweight or ()),
            order,
            reduction,
            retrain,
            queries,
            grow,
            solver,
        )
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            result = run_change(load_task(task), out, options, on_stage=on_stage)
        print_change(console, result)
        say_where(console, out / "report.html", result.trust)
