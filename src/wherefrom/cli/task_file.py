"""The file a user writes for `wherefrom audit`: plain Python that defines what to audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from wherefrom.api import Influence
from wherefrom.cli.python_file import guarded, run_python
from wherefrom.errors import InputError
from wherefrom.influence import Attributor
from wherefrom.studies.task import Task

_REQUIRED = ("model", "train", "queries", "loss")
# Handed to `Influence` as they are.
_INFLUENCE = (
    "weight_decay",
    "regulariser",
    "parameters",
    "curvature",
    "solver",
    "damping",
    "dtype",
    "forward",
    "target",
    "collate",
    "batch_size",
    "memory",
    "hvp_mode",
    "fisher_draws",
    "seed",
)


_OWN = tuple(f.name for f in fields(Task) if f.name not in ("options", "make", *_REQUIRED))
KNOWN_NAMES = (*_REQUIRED, *_OWN, *_INFLUENCE)


def task_from(values: Mapping[str, Any], *, source: str, default_name: str) -> Task:
    """An `Task` from the names a task file defines.

    Args:
        values: by name; every name must be known.
        source: what the values come from, for errors.
        default_name: of the model, when none is given.

    Raises:
        InputError: a required name is missing, or an unknown one is given.
    """
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise InputError(
            f"{source} does not define {', '.join(missing)}. A task defines model, train, queries and loss "
            "(and a recipe, to have the scores checked by retraining)."
        )
    unknown = sorted(set(values) - set(KNOWN_NAMES))
    if unknown:
        raise InputError(
            f"{source} gives {', '.join(map(repr, unknown))}; expected only {', '.join(KNOWN_NAMES)}"
        )
    if not isinstance(values["model"], nn.Module):
        raise InputError(
            f"{source}: model is a {type(values['model']).__name__}; expected the trained torch.nn.Module"
        )
    recipe = values.get("recipe")
    if recipe is not None and not callable(recipe):
        raise InputError(
            f"{source}: recipe is a {type(recipe).__name__}; expected a function recipe(train, seed) -> model"
        )
    change = values.get("change")
    if change is not None and not callable(change):
        raise InputError(
            f"{source}: change is a {type(change).__name__}; expected a function change(influence) that "
            "returns an intervention, such as influence.replace([3], examples)"
        )
    attack = values.get("attack", {})
    if not isinstance(attack, Mapping):
        raise InputError(
            f"{source}: attack is a {type(attack).__name__}; expected a dict of options, such as "
            "{'budget': 8, 'low': 0.0, 'high': 1.0}"
        )
    attributor = values.get("attributor")
    if attributor is not None and not isinstance(attributor, Attributor):
        raise InputError(
            f"{source}: attributor is a {type(attributor).__name__}; expected a wherefrom.Attributor, or "
            "leave it out for the influence function of model and training data"
        )
    own = {name: values[name] for name in (*_REQUIRED, *_OWN) if name in values}
    options = {name: values[name] for name in _INFLUENCE if name in values}
    return Task(**{"name": default_name, **own, "make": Influence, "options": options})


def load_task(path: str | Path) -> Task:
    """Run a task file and collect what it defines: top-level names, or the dict that its `task()` returns.

    Raises:
        InputError: no such file, it is not Python, it fails, or it does not define what is needed.
    """
    path = Path(path)
    module = run_python(path, "model, train, queries and loss")
    made = getattr(module, "task", None)
    if callable(made):
        values = guarded(path, made)
        if not isinstance(values, Mapping):
            raise InputError(
                f"{path}: task() returned a {type(values).__name__}; expected a dict of "
                f"{', '.join(_REQUIRED)}, …"
            )
        source = f"{path}: the dict of task()"
    else:
        # A file may define names of its own beside these.
        values = {name: getattr(module, name) for name in KNOWN_NAMES if hasattr(module, name)}
        source = str(path)
    return task_from(values, source=source, default_name=path.stem.replace("_", " "))
