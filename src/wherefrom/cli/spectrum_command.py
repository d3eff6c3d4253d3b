"""`wherefrom spectrum`."""

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


def spectrum(
    task: TaskArgument,
    out: OutOption,
    top: Annotated[int, typer.Option("--top", help="Leading eigenpairs.")] = 10,
    steps: Annotated[int, typer.Option("--steps", help="Lanczos steps for the density.")] = 60,
    starts: Annotated[
        int, typer.Option("--starts", help="Random starts of the density; more lower its error.")
    ] = 4,
    curvature: Annotated[
        str | None,
        typer.Option("--curvature", help="hessian, ggn, fisher, … (default: the task's)."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Of the training, to compare the sharpness with 2/rate."),
    ] = None,
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Show the curvature of the loss: its spectrum, where it lies, and whether influence can be trusted."""
    with errors(traceback):
        from wherefrom.cli.spectrum import SpectrumOptions, run_spectrum
        from wherefrom.cli.spectrum_terminal import print_spectrum
        from wherefrom.cli.task_file import load_task

        console = PlainConsole()
        options = SpectrumOptions(top, steps, starts, curvature, learning_rate, solver)
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            result = run_spectrum(load_task(task), out, options, on_stage=on_stage)
        print_spectrum(console, result)
        say_where(console, out / "report.html", result.trust)
