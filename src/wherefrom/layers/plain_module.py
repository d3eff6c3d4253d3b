"""Modules without a rule of their own: explicit gradients from their own computation alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.outer_products import rows_form
from wherefrom.layers.rule import Handle, LayerRule, first_input, parameter_names
from wherefrom.layers.tape import Call, Tape


class PlainModuleRule(LayerRule):
    """`J_iᵀ δ_i` of any module without submodules by `torch.vmap` over the examples of its own inputs.

    Cost: the module's own forward and backward pass, and `P` numbers per example and cotangent.
    """

    name = "plain module"

    def handles(self, module: nn.Module) -> bool:
        alone = next(module.children(), None) is None
        return alone and type(module).forward is not nn.Module.forward

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        entries = torch.cat([part.reshape(-1) for part in index.values()])
        names = parameter_names(path, index)
        return [Block(path or "model", self.name, "rows", names, entries.reshape(1, -1, 1))]

    def watch(self, module: nn.Module, blocks: list[Block], tape: Tape) -> Handle:
        (block,) = blocks

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not isinstance(output, Tensor) or not tree_flatten((args, kwargs))[0]:
                return output  # nothing to differentiate: it counts as never called
            inputs = first_input(args, kwargs)
            values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            held = tree_map(_detached, (args, kwargs, values))
            return tape.tap(block, inputs if isinstance(inputs, Tensor) else output, output, held)

        return module.register_forward_hook(record, with_kwargs=True)

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        own = [name.rpartition(".")[2] for name in block.parameters]
        return rows_form(torch.stack([_rows(module, own, call, batch) for call in calls]).sum(0))


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _rows(module: nn.Module, own: list[str], call: Call, batch: int) -> Tensor:
    """`(k, b, P)` of one call."""
    assert call.gradient is not None
    args, kwargs, values = call.held
    leaves, tree = tree_flatten((args, kwargs))
    first = 1 if call.second else 0
    apart = [
        isinstance(leaf, Tensor) and leaf.ndim > first and leaf.shape[first] == call.shape[first]
        for leaf in leaves
    ]
    split = [
        leaf.unflatten(first, (batch, -1)) if own_axis else leaf for leaf, own_axis in zip(leaves, apart)
    ]
    axes = [first if own_axis else None for own_axis in apart]
    studied = {name: values[name] for name in own}

    def pull_one(gradients: Tensor, *example: Any) -> Tensor:
        arguments, named = tree_unflatten(list(example), tree)
        called = vjp(lambda at: functional_call(module, {**values, **at}, arguments, named), studied)
        outputs, pull = called[0], called[1]
        turned = gradients.transpose(1, 2) if call.second else gradients
        (parts,) = vmap(pull)(turned.reshape(-1, *outputs.shape))
        return torch.cat([parts[name].reshape(gradients.shape[0], -1) for name in own], dim=1)

    return vmap(pull_one, in_dims=(1, *axes), out_dims=1)(call.gradient.unflatten(1, (batch, -1)), *split)
