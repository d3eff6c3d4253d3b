"""The contract of a layer rule: how a kind of module makes gradients out of its inputs and of the gradients
of its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.outer_products import rows_form
from wherefrom.layers.tape import Call, Tape


@runtime_checkable
class Handle(Protocol):
    """Undoes a `watch`."""

    def remove(self) -> None:
        """Leave the module as it was."""


class LayerRule(ABC):
    """How the per-example gradients of a module's parameters follow from what enters and leaves it.

    Attributes:
        name: shown in the coverage table.
        opens: whether a watched module calls submodules that it otherwise bypasses; such a module is watched,
            without blocks, also where only parameters of these are studied.
    """

    name: str
    opens: bool = False

    @abstractmethod
    def handles(self, module: nn.Module) -> bool:
        """Whether the rule is right for this module: its type, not a subclass that may compute something
        else."""

    @abstractmethod
    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        """The blocks of the module.

        Args:
            path: name of the module.
            module: that `handles` accepted.
            index: for each *studied* parameter of the module, by its own name (`"weight"`), where its entries
                lie in `θ`, in the parameter's shape.
        """

    def watch(self, module: nn.Module, blocks: list[Block], tape: Tape) -> Handle:
        """Have the module's calls recorded on `tape`. The default serves modules with one block, one input
        and one output."""
        (block,) = blocks

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            return tape.tap(block, first_input(args, kwargs), output)

        return module.register_forward_hook(record, with_kwargs=True)

    @abstractmethod
    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        """The gradients of a block from the calls of one forward pass, their `gradient` filled in.

        Args:
            module: of the block.
            block: made by `blocks`.
            calls: at least one; several calls add up.
            batch: number of examples.
        """


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The input of a module that takes one."""
    return args[0] if args else next(iter(kwargs.values()))


def parameter_names(path: str, index: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A module's studied parameters as the model names them."""
    return tuple(f"{path}.{name}".lstrip(".") for name in index)


def bias_block(name: str, rule: str, parameters: tuple[str, ...], bias: Tensor) -> Block:
    """The block of a map of which only the bias is studied: its gradient is `Σ_t δ_t`, a plain vector."""
    return Block(name or "model", rule, "rows", parameters, bias.reshape(1, -1, 1))


def bias_rows(calls: list[Call], batch: int, dimension: int) -> GradientForm:
    """Its gradients, for outputs whose features lie in this dimension (1 or -1)."""
    total: Tensor | None = None
    for call in calls:
        assert call.gradient is not None
        features = call.gradient.movedim(dimension + 1 if dimension >= 0 else dimension, -1)
        summed = features.reshape(features.shape[0], batch, -1, features.shape[-1]).sum(2)
        total = summed if total is None else total + summed
    assert total is not None
    return rows_form(total)


def with_ones(activations: Tensor, bias: bool) -> Tensor:
    """Activations with a last 1 where the block's last column is a bias."""
    if not bias:
        return activations
    ones = torch.ones(*activations.shape[:-1], 1, dtype=activations.dtype, device=activations.device)
    return torch.cat([activations, ones], dim=-1)


def weight_and_bias(weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Index of `[W | b]` from that of a weight `(g, o, i)` and of a bias `(g, o)`, either of which may be
    missing."""
    parts = [weight] if weight is not None else []
    if bias is not None:
        parts.append(bias[..., None])
    return torch.cat(parts, dim=2)
