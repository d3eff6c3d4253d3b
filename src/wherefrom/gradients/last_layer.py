"""A network's last linear layer, and the objective as a function of that layer alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.linear_head import find_linear_head
from wherefrom.task import CustomRegulariser, Objective, ParameterSet, Regulariser, WeightDecay


def head_objective(objective: Objective) -> Objective:
    """The same objective as a function of the model's last linear layer, everything before it frozen.

    Its features are then constants, and curvature and gradients have closed forms. Weight decay is that of
    the head's parameters, none for one that `objective` does not study; any other regulariser is kept as a
    function of the head.

    Raises:
        UnsupportedError: the model's outputs are not those of one `nn.Linear` applied to features that do not
            depend on it.
        InputError: the head's parameters are frozen (`requires_grad=False`).
    """
    name = _last_linear(objective)
    if name is None:
        raise _no_head("no nn.Linear that runs once makes the model's outputs")
    restricted = copy.copy(objective)
    every = {**objective.constants, **objective.parameters.values}
    prefix = f"{name}." if name else ""
    # Under their first names, as a parameter set names tied parameters.
    own = {id(value) for value in objective.model.get_submodule(name).parameters(recurse=False)}
    select = [key for key, value in objective.model.named_parameters() if id(value) in own]
    if any(key.rpartition(".")[0] != prefix.rstrip(".") for key in select):
        raise _no_head(f"layer {name!r} shares its parameters with another")
    restricted.parameters = ParameterSet(objective.model, select, objective.dtype)
    restricted.parameters.values = {key: every[key] for key in restricted.parameters.names}
    restricted.constants = {
        key: value for key, value in every.items() if key not in restricted.parameters.values
    }
    restricted.regulariser = _restricted(objective, restricted.parameters)
    if find_linear_head(restricted) is None:
        raise _no_head(f"the input or output of layer {name!r} depends on its parameters in another way too")
    return restricted


def _last_linear(objective: Objective) -> str | None:
    """The name of the `nn.Linear` whose one output is the model's, up to its shape."""
    calls: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        return lambda module, args, made: calls.setdefault(name, []).append(made.detach())

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in objective.model.named_modules()
        if type(module) is nn.Linear
    ]
    try:
        batch = objective.examples.batch(objective.examples.spread(2))
        with torch.no_grad():
            outputs = objective.outputs(objective.parameters.values, batch)
    finally:
        for handle in handles:
            handle.remove()
    found = [
        name
        for name, made in calls.items()
        if len(made) == 1
        and made[0].numel() == outputs.numel()
        and torch.equal(made[0].reshape(outputs.shape), outputs)
    ]
    return found[-1] if found else None


def _restricted(objective: Objective, parameters: ParameterSet) -> Regulariser:
    regulariser = objective.regulariser
    if isinstance(regulariser, WeightDecay):
        return WeightDecay(
            parameters, {name: regulariser.per_name.get(name, 0.0) for name in parameters.names}
        )
    function = regulariser.arguments()["regulariser"]
    fixed = objective.parameters.values

    def of_head(values: dict[str, Tensor]) -> Tensor:
        return function({**fixed, **{name: value for name, value in values.items() if name in fixed}})

    of_head.__qualname__ = f"{regulariser.settings()['regulariser']} of the head"
    return CustomRegulariser(parameters, of_head)


def _no_head(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"the model does not end in a linear layer: {reason}. Expected outputs W e + b of one nn.Linear; "
        "what comes after it (a softmax, say) belongs into the loss, and another form of head is attributed "
        "by parameters=."
    )
