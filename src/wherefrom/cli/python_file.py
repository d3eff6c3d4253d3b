"""Python files that users write: run, with errors that name the line."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wherefrom.errors import InputError, WherefromError


def run_python(path: Path, defines: str, kind: str = "task") -> Any:
    """The module of a file.

    Args:
        path: of the file.
        defines: what is expected of it, for errors.
        kind: of file, for errors.

    Raises:
        InputError: no such file, it is not Python, or it fails.
    """
    if not path.is_file():
        raise InputError(f"{kind} file {path} does not exist; expected a Python file that defines {defines}")
    if path.suffix != ".py":
        raise InputError(f"{kind} file {path} is not a Python file; expected a name that ends in .py")
    spec = importlib.util.spec_from_file_location(f"wherefrom_task_{path.stem}", path)
    if spec is None:
        raise InputError(f"{kind} file {path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(spec)
    # Classes looked up by module name must be found there, as must modules beside the task file.
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # From the text as it is now: compiled files that Python keeps are told apart by second and size only.
    guarded(path, lambda: exec(compile(path.read_bytes(), str(path), "exec"), vars(module)), kind)
    return module


def guarded(path: Path, call: Callable[[], Any], kind: str = "task") -> Any:
    """Run the user's code; what it raises becomes an error that names the line.

    Raises:
        InputError: naming the line.
    """
    try:
        return call()
    except WherefromError:
        raise
    except SyntaxError as error:
        raise InputError(f"{kind} file {path} cannot be loaded: line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path
        ]
        where = f"line {lines[-1]}: " if lines else ""
        raise InputError(
            f"{kind} file {path} cannot be loaded: {where}{type(error).__name__}: {error}"
        ) from error
