"""Dense layers: `nn.Linear`, and the transposed `Conv1D` of Hugging Face's GPT models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.outer_products import OuterProducts
from wherefrom.layers.rule import (
    LayerRule,
    bias_block,
    bias_rows,
    parameter_names,
    weight_and_bias,
    with_ones,
)
from wherefrom.layers.tape import Call


class LinearRule(LayerRule):
    """`s = W a + c` at every position: `∇_W = Σ_t δ_t a_tᵀ`, `∇_c = Σ_t δ_t`."""

    name = "linear"

    def handles(self, module: nn.Module) -> bool:
        # What nn.MultiheadAttention's out_proj is; it computes the same.
        return type(module) in (nn.Linear, NonDynamicallyQuantizableLinear)

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        names = parameter_names(path, index)
        return [linear_block(path, self.name, names, self._weight(index), index.get("bias"))]

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        return linear_form(block, calls, batch)

    def _weight(self, index: Mapping[str, Tensor]) -> Tensor | None:
        """Index of the weight as `(o, i)`."""
        return index.get("weight")


class TransposedLinearRule(LinearRule):
    """Hugging Face's `Conv1D` (GPT-2): `s = a W + c` with `W` of shape `(i, o)`."""

    name = "transposed linear"

    def handles(self, module: nn.Module) -> bool:
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if type(module).__name__ != "Conv1D" or not hasattr(module, "nf"):
            return False
        return isinstance(weight, Tensor) and isinstance(bias, Tensor) and weight.ndim == 2

    def _weight(self, index: Mapping[str, Tensor]) -> Tensor | None:
        weight = index.get("weight")
        return None if weight is None else weight.T


def linear_block(
    name: str, rule: str, parameters: tuple[str, ...], weight: Tensor | None, bias: Tensor | None
) -> Block:
    """The block of a dense layer from the index of its weight `(o, i)` and bias, either of which may not be
    studied."""
    if weight is None:
        assert bias is not None
        return bias_block(name, rule, parameters, bias)
    entries = weight_and_bias(weight[None], None if bias is None else bias[None])
    return Block(name or "model", rule, "matrix", parameters, entries, sequence=True)


def linear_form(block: Block, calls: list[Call], batch: int) -> GradientForm:
    """Its gradients: whatever stands between example and feature is a position."""
    if block.kind == "rows":
        return bias_rows(calls, batch, -1)
    gradients = [_positions(call.gradient, batch, 1) for call in calls if call.gradient is not None]
    bias = block.shape[2] > calls[0].inputs.shape[-1]
    inputs = [with_ones(_positions(call.inputs, batch, 0), bias) for call in calls]
    activations = torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0]
    deltas = torch.cat(gradients, dim=2) if len(gradients) > 1 else gradients[0]
    return OuterProducts(activations[:, :, None], deltas[:, :, :, None], sequence=True)


def _positions(values: Tensor, batch: int, lead: int) -> Tensor:
    """`(*lead, b·…, c)` as `(*lead, b, t, c)`."""
    return values.reshape(*values.shape[:lead], batch, -1, values.shape[-1])
