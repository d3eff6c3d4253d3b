"""A command from a study: its fields are the options, its docstring the help."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from wherefrom.cli.console import PlainConsole
from wherefrom.cli.context import (
    SolverOption,
    TaskArgument,
    TracebackOption,
    errors,
    say_where,
    stages,
)
from wherefrom.cli.task_file import load_task
from wherefrom.report import print_section
from wherefrom.studies.runner import page_of, run_study
from wherefrom.studies.study import Study, flag_of, options_of

OutOption = Annotated[
    Path,
    typer.Option(
        "--out", help="Directory for the page and the files; what takes long is kept there for all commands."
    ),
]


def study_command(kind: type[Study]) -> Callable[..., None]:
    """A function that typer makes a command of.

    Args:
        kind: of study; every field made by `option` becomes an option with the same default and text.
    """
    given = options_of(kind)

    def command(task: Path, out: Path, solver: str | None, traceback: bool, **chosen: Any) -> None:
        with errors(traceback):
            options = {one.name: _python(chosen[one.name], one.default) for one in given}
            study = kind(**options)
            console = PlainConsole()
            with stages(console) as say:
                say(f"loading {task}")
                (answer,) = run_study(study, load_task(task), out, solver=solver, say=say)
            print_section(console, answer.section)
            say_where(console, page_of(study, out))

    hints = typing.get_type_hints(kind)
    parameters = [parameter("task", TaskArgument), parameter("out", OutOption)]
    for one in given:
        flag = flag_of(one)
        kind_of = list[str] if isinstance(one.default, tuple) else hints[one.name]
        text = typer.Option(flag, help=one.metadata["help"])
        default = list(one.default) if isinstance(one.default, tuple) else one.default
        parameters.append(parameter(one.name, Annotated[kind_of, text], default))
    parameters += [parameter("solver", SolverOption, None), parameter("traceback", TracebackOption, False)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__name__ = kind.name
    command.__doc__ = help_text(kind)
    return command


def help_text(of: Any) -> str:
    """Its docstring, each paragraph on one line: the terminal breaks lines where it is full."""
    parts = (inspect.getdoc(of) or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


def parameter(name: str, annotation: Any, *default: Any) -> inspect.Parameter:
    """Of a command, as typer reads it; required without a default."""
    made = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    return made.replace(default=default[0]) if default else made


def _python(value: Any, default: Any) -> Any:
    """What typer read, in the form of the field."""
    return tuple(value or ()) if isinstance(default, tuple) else value
