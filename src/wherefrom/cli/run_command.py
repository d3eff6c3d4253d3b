"""`wherefrom run`: a study from a user's file, as a command like the others."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from wherefrom.cli.context import errors
from wherefrom.cli.python_file import run_python
from wherefrom.cli.study_command import help_text, parameter, study_command
from wherefrom.errors import InputError
from wherefrom.studies.study import Study


def run(**given: Any) -> None:
    """Ask a question of your own: a study in a Python file, with its own options.

    wherefrom run my_study.py task.py --out out shows its page like any command; --help after the file shows
    its options.
    """
    context, study = given["context"], given["study"]
    if str(study) == "--help":  # before the file it asks about this command
        typer.echo(context.get_help())
        return
    with errors(traceback="--traceback" in context.args):
        kind = load_study(study)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(kind.name)(study_command(kind))
    typer.main.get_command(app)(context.args, prog_name=f"wherefrom run {study}")


run.__doc__ = help_text(run)
_STUDY = Annotated[Path, typer.Argument(help="Python file that defines a wherefrom.Study.")]
run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [parameter("context", typer.Context), parameter("study", _STUDY)]
)


def load_study(path: Path) -> type[Study]:
    """The one study that a file defines.

    Raises:
        InputError: no such file, it fails, or it defines none or several.
    """
    module = run_python(path, "a wherefrom.Study", "study")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Study) and value.__module__ == module.__name__
    ]
    if not found:
        raise InputError(
            f"{path} defines no study; expected a frozen dataclass that inherits from wherefrom.Study, with "
            "name, question and run()"
        )
    if len(found) > 1:
        names = " and ".join(kind.__name__ for kind in found)
        raise InputError(f"{path} defines {len(found)} studies, {names}; expected one in a file")
    (kind,) = found
    if not is_dataclass(kind):
        raise InputError(f"{path}: {kind.__name__} is no dataclass; write @dataclass(frozen=True) above it")
    return kind
