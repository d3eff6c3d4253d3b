"""Which tensor of a batch is the input of its examples, where that can be changed a little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_unflatten

from wherefrom.errors import InputError
from wherefrom.task import Objective


@dataclass(frozen=True)
class ContinuousInput:
    """One floating-point tensor of a batch.

    Attributes:
        position: among the leaves of the batch.
        name: as it is written in errors.
    """

    position: int
    name: str

    def read(self, batch: Any) -> Tensor:
        """The tensor `(b, …)`."""
        return tree_flatten(batch)[0][self.position]

    def write(self, batch: Any, values: Tensor) -> Any:
        """The batch with this tensor exchanged."""
        leaves, structure = tree_flatten(batch)
        leaves[self.position] = values
        return tree_unflatten(leaves, structure)


def find_input(objective: Objective, input: int | str | None = None) -> ContinuousInput:
    """The tensor of the training examples that is perturbed.

    Args:
        objective: gives the examples, and which of their tensors are targets.
        input: place in a tuple batch, or key of a dict batch; by default the one floating-point tensor that
            is no target.

    Raises:
        InputError: there is none (integer tokens), there are several, or `input` names none.
    """
    batch = objective.examples.batch([0])
    found = tree_flatten_with_path(batch)[0]
    names = ["".join(map(str, path)) or "the batch" for path, _ in found]
    leaves = [leaf for _, leaf in found]
    if input is not None:
        return _named(batch, leaves, names, input)
    targets = {id(leaf) for leaf in tree_flatten(objective.targets(batch))[0]}
    continuous = [
        position
        for position, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and id(leaf) not in targets
    ]
    if len(continuous) == 1:
        return ContinuousInput(continuous[0], names[continuous[0]])
    if continuous:
        listed = ", ".join(names[position] for position in continuous)
        raise InputError(
            f"the training examples have {len(continuous)} floating-point inputs ({listed}); expected one to "
            "perturb. Pass input=, its place in the tuple or its key in the dict"
        )
    kinds = ", ".join(
        f"{name}: {_kind(leaf)}" for name, leaf in zip(names, leaves) if id(leaf) not in targets
    )
    raise InputError(
        f"the training examples have no continuous input ({kinds}): a small change of integers such as "
        "tokens is not defined. Convert pixels to floating point in the data set; for tokens pass "
        "embedding=, the embedding module, or rank replacements with token_replacements"
    )


def _named(batch: Any, leaves: list[Any], names: list[str], input: int | str) -> ContinuousInput:
    try:
        chosen = batch[input]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"input={input!r} names nothing in a batch; expected one of {', '.join(names)}"
        ) from error
    position = next((i for i, leaf in enumerate(leaves) if leaf is chosen), None)
    if position is None or not isinstance(chosen, Tensor) or not chosen.is_floating_point():
        raise InputError(
            f"input={input!r} is {_kind(chosen)}; expected a floating-point tensor of the batch, which can "
            "be changed a little"
        )
    return ContinuousInput(position, names[position])


def _kind(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"{str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)}"
    return f"a {type(leaf).__name__}"


def find_module(objective: Objective, module: nn.Module | str) -> nn.Module:
    """A submodule of the model, given itself or by name.

    Raises:
        InputError: the model has no such module.
    """
    if isinstance(module, nn.Module):
        for model in (objective.given_model, objective.model):
            found = next((name for name, own in model.named_modules() if own is module), None)
            if found is not None:
                return objective.model.get_submodule(found)
        raise InputError(
            f"embedding={type(module).__name__}(...): this module is not part of the model. Pass one of the "
            "model's own, e.g. embedding=model.embed, or its name"
        )
    named = dict(objective.model.named_modules())
    if module not in named or not module:
        shown = ", ".join(list(named)[1:9])
        raise InputError(f"embedding={module!r} is no module of the model; it has {shown}")
    return named[module]


@contextmanager
def perturbable_output(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside the block the module's output has a zero added to it that can be differentiated by; the list
    receives `(the module's input, that zero)` once for each call.

    Raises:
        InputError: the output is no floating-point tensor.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def add_zero(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> Tensor:
        if not isinstance(made, Tensor) or not made.is_floating_point():
            raise InputError(
                f"the output of the embedding module is {_kind(made)}; expected a floating-point tensor"
            )
        zero = torch.zeros_like(made).requires_grad_()
        calls.append((args[0] if args else next(iter(kwargs.values())), zero))
        return made + zero

    handle = module.register_forward_hook(add_zero, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def only_call(calls: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The module's one call.

    Raises:
        InputError: it was not called, or more than once: then its output is not one tensor.
    """
    if len(calls) != 1:
        raise InputError(
            f"the embedding module was called {len(calls)} times in one forward pass; expected once, so that "
            "its output is one tensor"
        )
    return calls[0]
