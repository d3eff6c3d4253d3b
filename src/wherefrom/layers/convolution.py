"""Convolutions in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.outer_products import OuterProducts
from wherefrom.layers.rule import LayerRule, bias_block, bias_rows, parameter_names, weight_and_bias
from wherefrom.layers.tape import Call

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ConvolutionRule(LayerRule):
    """A dense layer on the patch below every output position, one per group: `∇_W = Σ_t δ_t a_tᵀ` with the
    patch as `a_t`.

    A patch lists its positions first and its channels last, so that copying it reads runs of memory.
    """

    name = "convolution"

    def handles(self, module: nn.Module) -> bool:
        return type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        conv = cast("Convolution", module)
        weight, bias = index.get("weight"), index.get("bias")
        if weight is None:
            return [bias_block(path, self.name, parameter_names(path, index), index["bias"])]
        weight = weight.unflatten(0, (conv.groups, -1)).movedim(2, -1).flatten(2)
        entries = weight_and_bias(weight, None if bias is None else bias.reshape(conv.groups, -1))
        return [Block(path or "model", self.name, "matrix", parameter_names(path, index), entries)]

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        conv = cast("Convolution", module)
        if block.kind == "rows":
            return bias_rows(calls, batch, 1)
        g, o, _ = block.shape
        bias = len(block.parameters) > 1
        activations, gradients = [], []
        for call in calls:
            assert call.gradient is not None
            activations.append(patches(conv, call.inputs, ones=bias).reshape(batch, -1, g, block.shape[2]))
            # (k, b·frames, g·o, t) to (k, b, frames·t, g, o)
            made = call.gradient.flatten(3).unflatten(1, (batch, -1)).unflatten(3, (g, o))
            gradients.append(made.permute(0, 1, 2, 5, 3, 4).flatten(2, 3))
        return OuterProducts(
            torch.cat(activations, dim=1) if len(calls) > 1 else activations[0],
            torch.cat(gradients, dim=2) if len(calls) > 1 else gradients[0],
        )


def patches(conv: Convolution, inputs: Tensor, *, ones: bool) -> Float[Tensor, "b t g i"]:
    """What enters the dense map at each output position, per group; with a last 1 if `ones`.

    Raises:
        ValueError: an input without a first dimension of examples.
    """
    dims = len(conv.kernel_size)
    if inputs.ndim != dims + 2:
        raise ValueError(f"input of {inputs.ndim} dimensions, expected {dims + 2}")
    windows = _padded(conv, inputs).unflatten(-1, (conv.groups, -1))  # (b, *space, g, c)
    for axis in range(dims):
        size, step, gap = conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis]
        windows = windows.unfold(1 + axis, gap * (size - 1) + 1, step)[..., ::gap]
    windows = windows.movedim(dims + 2, -1)  # (b, *space, g, *kernel, c)
    wide = math.prod(windows.shape[dims + 2 :])
    made = inputs.new_empty(*windows.shape[: dims + 2], wide + ones)
    if ones:
        made[..., wide] = 1
    made[..., :wide].unflatten(-1, windows.shape[dims + 2 :]).copy_(windows)
    return made.flatten(1, dims)


def _padded(conv: Convolution, inputs: Tensor) -> Float[Tensor, "b *space c"]:
    """The padded input with channels last."""
    sides = []
    for axis, (size, gap) in enumerate(zip(conv.kernel_size, conv.dilation)):
        if isinstance(conv.padding, str):
            total = gap * (size - 1) if conv.padding == "same" else 0
            sides.append((total // 2, total - total // 2))
        else:
            sides.append((conv.padding[axis], conv.padding[axis]))
    if conv.padding_mode != "zeros":
        widths = [width for pair in reversed(sides) for width in pair]
        return F.pad(inputs, widths, mode=conv.padding_mode).movedim(1, -1).contiguous()
    space = inputs.shape[2:]
    made = inputs.new_zeros(
        inputs.shape[0], *(size + sum(pair) for size, pair in zip(space, sides)), inputs.shape[1]
    )
    inner = made
    for axis, (size, pair) in enumerate(zip(space, sides)):
        inner = inner.narrow(1 + axis, pair[0], size)
    inner.copy_(inputs.movedim(1, -1))
    return made
