"""`wherefrom attack`."""

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


def attack(
    task: TaskArgument,
    out: OutOption,
    edits: Annotated[
        str | None,
        typer.Option("--edits", help="Training examples edited: a number, or several to try, as 1,2,10."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            help="Largest change, in steps of 1/255 of the inputs' range: grey levels of pictures "
            "(default: 0.5).",
        ),
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help="linf (the default: in any value) or l2.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps of each attack, at most (default: 40).")
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="Queries attacked, spread over all (default: 100).")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Attack all queries at once, not each by itself.")
    ] = False,
    solver: SolverOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Audit your own model: how few imperceptibly edited training examples flip its predictions?

    A linear head on frozen features is attacked query by query.

    Any other model: all queries at once, trained by the task's recipe between steps.

    The task file may set the same by attack = {...}, and low and high of the inputs.
    """
    with errors(traceback):
        from wherefrom.cli.attack import run_attacks
        from wherefrom.cli.attack_options import AttackOptions
        from wherefrom.cli.attack_terminal import print_attack
        from wherefrom.cli.task_file import load_task

        console = PlainConsole()
        options = AttackOptions(
            edits=None if edits is None else _numbers(edits),
            budget=budget,
            norm=norm,
            steps=steps,
            queries=queries,
            together=together or None,
            solver=solver,
        )
        with stages(console) as on_stage:
            on_stage(f"loading {task}")
            report = run_attacks(load_task(task), out, options, on_stage=on_stage)
        print_attack(console, report)
        say_where(console, out / "report.html", report.trust)


def _numbers(text: str) -> tuple[int, ...]:
    from wherefrom.errors import InputError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"edits={text!r}: expected a number, or several with commas, as 1,2,10") from error
