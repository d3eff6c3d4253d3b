"""`wherefrom labels`."""

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


def labels(
    task: TaskArgument,
    out: OutOption,
    top: Annotated[int, typer.Option("--top", help="Most suspicious examples listed and shown.")] = 12,
    review: Annotated[
        int, typer.Option("--review", help="Training examples looked at, of largest loss (0: all).")
    ] = 0,
    by: Annotated[
        str,
        typer.Option("--by", help="Sign they are ranked by: combined, loss, margin, self_influence, harm, …"),
    ] = "combined",
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Rank the training labels by how much they look like mistakes, with a label proposed for each.

    With a validation set in the task file the ranking also uses what each label does to its loss.
    """
    with errors(traceback):
        from wherefrom.cli.labels import LabelsOptions, run_labels
        from wherefrom.cli.labels_terminal import print_labels
        from wherefrom.cli.task_file import load_task

        console = PlainConsole()
        options = LabelsOptions(top=top, review=review, by=by, solver=solver)
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            result = run_labels(load_task(task), out, options, on_stage=on_stage)
        print_labels(console, result)
        say_where(console, out / "report.html", result.trust)
