"""Dense layers: `nn.Linear`, and the transposed `Conv1D` of Hugging Face's GPT models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from whence.layers.block import Block
from whence.layers.forms import GradientForm
from whence.layers.outer_products import OuterProducts
from whence.layers.rule import (
    LayerRule,
    bias_block,
    bias_rows,
    parameter_names,
    weight_and_bias,
    with_ones,
)
from whence.layers.tape import Call


class LinearRule(LayerRule):
    """`s = W a + c` at every position: `∇_W = Σ_t δ_t a_tᵀ`, `∇_c = Σ_t δ_t`."""

    name = "linear"

    def handles(self, module: nn.Module) -> bool:
        # What nn.MultiheadAttention's out_proj is; it computes the same.
        return type(module) in (nn.Linear, NonDynamicallyQuantizableLinear)

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        weight, bias = self._weight(index), index.get("bias")
        if weight is None:
            return [bias_block(path, self.name, index)]
        entries = weight_and_bias(weight[None], None if bias is None else bias[None])
        names = parameter_names(path, index)
        return [Block(path or "model", self.name, "matrix", names, entries, sequence=True)]

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        if block.kind == "rows":
            return bias_rows(calls, batch, -1)
        bias = len(block.parameters) > 1
        gradients = [_positions(call.gradient, batch, 1) for call in calls if call.gradient is not None]
        inputs = [with_ones(_positions(call.inputs, batch, 0), bias) for call in calls]
        activations = torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0]
        deltas = torch.cat(gradients, dim=2) if len(gradients) > 1 else gradients[0]
        return OuterProducts(activations[:, :, None], deltas[:, :, :, None], sequence=True)

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


def _positions(values: Tensor, batch: int, lead: int) -> Tensor:
    """`(*lead, b·…, c)` as `(*lead, b, t, c)`: whatever stands between example and feature is a position."""
    return values.reshape(*values.shape[:lead], batch, -1, values.shape[-1])
