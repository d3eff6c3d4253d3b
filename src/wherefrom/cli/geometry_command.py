"""`wherefrom geometry`."""

from __future__ import annotations

from typing import Annotated

import typer

from wherefrom.cli.console import PlainConsole
from wherefrom.cli.context import OutOption, TaskArgument, TracebackOption, errors, say_where, stages


def geometry(
    task: TaskArgument,
    out: OutOption,
    scalar: Annotated[
        str | None,
        typer.Option(
            "--scalar",
            help="Number whose gradients are taken: margin, loss, logit, or an output by its number "
            "(default: margin for classes, else loss).",
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option("--examples", help="Training examples looked at, spread over all (0: all)."),
    ] = 256,
    probes: Annotated[
        int,
        typer.Option("--probes", help="Random probes for the geometric complexity (0: exact)."),
    ] = 0,
    top: Annotated[int, typer.Option("--top", help="Steepest examples shown.")] = 8,
    traceback: TracebackOption = False,
) -> None:
    """Show how steep the model is in its input and in its parameters, and how the two bound one another.

    For each training example looked at, for each layer, with the examples of steepest input gradient.
    """
    with errors(traceback):
        from wherefrom.cli.geometry import GeometryOptions, run_geometry
        from wherefrom.cli.geometry_terminal import print_geometry
        from wherefrom.cli.task_file import load_task
        from wherefrom.influence import trust_without_fit

        console = PlainConsole()
        options = GeometryOptions(scalar=scalar, examples=examples, probes=probes, top=top)
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            result = run_geometry(load_task(task), out, options, on_stage=on_stage)
        print_geometry(console, result)
        say_where(console, out / "report.html", trust_without_fit())
