"""Which part of an example is its target, where the form leaves it open."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from wherefrom.errors import InputError
from wherefrom.task.batch import default_forward, default_target, output_tensor
from wherefrom.task.objective import Objective


def check_item_form(objective: Objective) -> None:
    """Tuples `(x, …, y)` of three parts or more: the last is taken as the target only where the model takes
    all the others.

    A third part is often an index or a weight. Then the model has no use for the second, or takes it for an
    optional input.

    Raises:
        InputError: it cannot be told, with what to pass.
    """
    batch = objective.examples.batch([0])
    if not isinstance(batch, (tuple, list)) or len(batch) < 3:
        return
    if objective.forward is default_forward:
        _check_signature(objective.model, len(batch))
    elif objective.target is default_target:
        _check_use(objective, batch)


def _check_signature(model: nn.Module, parts: int) -> None:
    required, most, variable = _positional(model)
    inputs = parts - 1
    if required == inputs or (required < inputs and most < inputs and not variable):
        return  # the latter fails when it is called, and names the batch
    if required > inputs:
        return
    takes = (
        f"any number of inputs ({type(model).__name__}.forward(*args))"
        if variable
        else f"{required} input{'s' * (required != 1)} and {most - required} optional"
    )
    raise InputError(
        f"an example has {parts} parts, of which the last would be the target and {inputs} go into the "
        f"model, which takes {takes}: is the last part a target, or an index or a weight? Pass "
        "forward=lambda model, batch: model(batch[0]) and target=lambda batch: batch[1] for (x, y, index); "
        f"forward=lambda model, batch: model(*batch[:-1]) and target=lambda batch: batch[-1] if all {inputs} "
        "are inputs. A weight of examples belongs into the loss."
    )


def _positional(model: nn.Module) -> tuple[int, int, bool]:
    """How many positional inputs `forward` requires, takes at most, and whether it takes any number."""
    for wrapped in ("_orig_mod", "module"):  # torch.compile, DataParallel
        inner = getattr(model, wrapped, None)
        if isinstance(inner, nn.Module) and type(model).__module__.startswith("torch."):
            return _positional(inner)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 0, 0, True
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = sum(one.default is one.empty for one in places)
    return required, len(places), any(one.kind is one.VAR_POSITIONAL for one in parameters)


def _check_use(objective: Objective, batch: Any) -> None:
    """A user's own forward uses all parts but the last, or `target=` must say which is the target."""
    unused = [position for position in range(1, len(batch) - 1) if not _uses(objective, batch, position)]
    if unused:
        raise InputError(
            f"an example has {len(batch)} parts, and forward= makes no use of part {unused[0]}: is that the "
            f"target, or the last one? Pass target=lambda batch: batch[{unused[0]}], or batch[-1]."
        )


def _uses(objective: Objective, batch: Any, position: int) -> bool:
    """Whether the outputs change, or are not made, without that part."""
    parts = list(batch)
    parts[position] = None
    without = type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    with torch.no_grad():
        try:
            expected = output_tensor(objective.call(lambda model: objective.forward(model, batch)))
        except Exception:
            return True  # such a forward pass is named where models are checked
        try:
            found = output_tensor(objective.call(lambda model: objective.forward(model, without)))
        except Exception:
            return True
    return not (isinstance(found, Tensor) and torch.equal(expected, found))
