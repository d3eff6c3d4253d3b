"""The file a user writes for `wherefrom audit`: plain Python that defines what to audit."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from wherefrom.api import Influence
from wherefrom.errors import InputError, WherefromError
from wherefrom.evaluation import Recipe
from wherefrom.interventions import Intervention
from wherefrom.report import Describe

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


@dataclass(frozen=True)
class AuditTask:
    """What to audit.

    Attributes:
        name: of the model, for the page.
        model, train, queries, loss: as for `Influence`.
        recipe: `recipe(train, seed) -> model`; without it nothing is retrained.
        measurement: what is measured on a query.
        seeds, reduction: of the retraining, as for `Influence.verify`.
        remove: examples left out, each alone; the command line's choice wins.
        describe_train, describe_query: from an index to a card.
        class_names: names of the classes.
        validation: examples whose loss tells harm from help, for `wherefrom labels` and harmful groups.
        train_groups, query_groups: the name of the group each example belongs to, for `wherefrom slices`.
        attack: options of `wherefrom attack`, by name.
        change: `change(influence) -> Intervention`, for `wherefrom change`: edits that a command line cannot
            write, such as new content.
        learning_rate: of the gradient descent that trained the model; `wherefrom spectrum` compares the
            sharpness with it.
        facts: `(name, value)` for the head of the page.
        options: further arguments of `Influence`.
    """

    name: str
    model: Any
    train: Any
    queries: Any
    loss: Any
    recipe: Recipe | None = None
    measurement: Any = "loss"
    seeds: Sequence[int] = (0,)
    reduction: Literal["mean", "sum"] = "mean"
    remove: int | None = None
    describe_train: Describe | None = None
    describe_query: Describe | None = None
    class_names: Sequence[str] | None = None
    validation: Any = None
    train_groups: Sequence[Any] | None = None
    query_groups: Sequence[Any] | None = None
    attack: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Influence], Intervention] | None = None
    learning_rate: float | None = None
    facts: Sequence[tuple[str, str]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def fit(
        self, *, solver: str | None = None, progress: bool = True, run_dir: Path | None = None
    ) -> Influence:
        """The fitted influence function, with another solver where one is named."""
        given = {**self.options, **({} if solver is None else {"solver": solver})}
        influence = Influence(
            self.model, self.train, loss=self.loss, progress=progress, run_dir=run_dir, **given
        )
        return influence.fit()


_OWN = tuple(f.name for f in fields(AuditTask) if f.name not in ("options", *_REQUIRED))
KNOWN_NAMES = (*_REQUIRED, *_OWN, *_INFLUENCE)


def task_from(values: Mapping[str, Any], *, source: str, default_name: str) -> AuditTask:
    """An `AuditTask` from the names a task file defines.

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
    own = {name: values[name] for name in (*_REQUIRED, *_OWN) if name in values}
    options = {name: values[name] for name in _INFLUENCE if name in values}
    return AuditTask(**{"name": default_name, **own, "options": options})


def load_task(path: str | Path) -> AuditTask:
    """Run a task file and collect what it defines: top-level names, or the dict that its `task()` returns.

    Raises:
        InputError: no such file, it is not Python, it fails, or it does not define what is needed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"task file {path} does not exist; expected a Python file that defines model, train, "
            "queries and loss"
        )
    if path.suffix != ".py":
        raise InputError(f"task file {path} is not a Python file; expected a name that ends in .py")
    module = _run(path)
    made = getattr(module, "task", None)
    if callable(made):
        values = _guarded(path, made)
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


def _run(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"wherefrom_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"task file {path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(spec)
    # Classes looked up by module name must be found there, as must modules beside the task file.
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    loader = spec.loader
    _guarded(path, lambda: loader.exec_module(module))
    return module


def _guarded(path: Path, call: Callable[[], Any]) -> Any:
    """Run the user's code; what it raises becomes an error that names the line."""
    try:
        return call()
    except WherefromError:
        raise
    except SyntaxError as error:
        raise InputError(f"task file {path} cannot be loaded: line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path
        ]
        where = f"line {lines[-1]}: " if lines else ""
        raise InputError(
            f"task file {path} cannot be loaded: {where}{type(error).__name__}: {error}"
        ) from error
