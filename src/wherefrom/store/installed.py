"""Which modules are a user's own code, and which belong to Python or to an installed package."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
from pathlib import Path

# Folders that installers put packages in: the interpreter's own, a user's, another environment's.
_FOLDERS = {"site-packages", "dist-packages"}
_OF_PYTHON = tuple(
    Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")
)
# What this package is built on is installed, wherever it lies and however it got there.
_KNOWN = re.compile(
    "wherefrom|torch|torchgen|torchvision|functorch|numpy|scipy|sklearn|joblib|safetensors|threadpoolctl|jaxtyping"
    "|beartype|rich|typer|click|jinja2|markupsafe|matplotlib|pandas|xarray|lightning|pytorch_lightning"
)


@functools.cache
def is_installed(module: str | None) -> bool:
    """Whether a module belongs to Python, to an installed package or to this one.

    Installed is what lies in a folder of installed packages (the interpreter's, `--user`, one that a `.pth`
    file or `PYTHONPATH` names), and what an installer has recorded in the folder in which it lies
    (`pip install --target`). A project installed in editable mode lies elsewhere: it is the user's own.
    """
    if module is None:
        return True
    root = module.split(".")[0]
    if root == "__main__":
        return False
    if root in sys.builtin_module_names or root in sys.stdlib_module_names or _KNOWN.fullmatch(root):
        return True
    place = _place(module) or _place(root)
    if place is None:
        return False
    return (
        not _FOLDERS.isdisjoint(place.parts)
        or any(place.is_relative_to(folder) for folder in _OF_PYTHON)
        or _recorded(root, place)
    )


def _place(module: str) -> Path | None:
    """The file of a loaded module; some, made while running, name none that exists."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(file, str):
        return None
    found = Path(file).resolve()
    return found if found.exists() else None


def _recorded(root: str, place: Path) -> bool:
    """Whether an installer's record beside the package names it."""
    inside = [parent for parent in place.parents if parent.name == root]
    folder = inside[-1].parent if inside else place.parent
    starts = (f"{root}/", f"{root}.")
    for record in folder.glob("*.dist-info/RECORD"):
        try:
            with record.open(encoding="utf-8", errors="replace") as lines:
                if any(line.startswith(starts) for line in lines):
                    return True
        except OSError:  # removed meanwhile
            continue
    return False
