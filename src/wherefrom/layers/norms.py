"""Normalisation layers: an elementwise scale and shift of what was normalised."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.outer_products import rows_form
from wherefrom.layers.rule import Handle, LayerRule, first_input, parameter_names
from wherefrom.layers.tape import Call, Tape

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class ScaleShiftRule(LayerRule):
    """`s = w ⊙ x̂ + c`: `∇_w = Σ_t δ_t ⊙ x̂_t`, `∇_c = Σ_t δ_t`, made explicitly."""

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        entries = torch.cat([part.reshape(-1) for part in index.values()])
        names = parameter_names(path, index)
        return [Block(path or "model", self.name, "rows", names, entries.reshape(1, -1, 1))]

    def watch(self, module: nn.Module, blocks: list[Block], tape: Tape) -> Handle:
        (block,) = blocks

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            with torch.no_grad():
                normalised = self.normalised(module, first_input(args, kwargs))
            return tape.tap(block, normalised, output)

        return module.register_forward_hook(record, with_kwargs=True)

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        own = [name.rpartition(".")[2] for name in block.parameters]
        sums = []
        for call in calls:
            assert call.gradient is not None
            delta = call.gradient
            parts = [delta * call.inputs if name == "weight" else delta for name in own]
            sums.append(torch.cat([self.per_example(module, part, batch) for part in parts], dim=2))
        return rows_form(torch.stack(sums).sum(0) if len(sums) > 1 else sums[0])

    @abstractmethod
    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """`x̂`."""

    @abstractmethod
    def per_example(self, module: nn.Module, values: Tensor, batch: int) -> Tensor:
        """`(k, *outputs)` summed over positions: `(k, b, parameters)`."""


class LayerNormRule(ScaleShiftRule):
    """`nn.LayerNorm` and `nn.RMSNorm`: parameters lie along the last dimensions."""

    name = "layer norm"

    def handles(self, module: nn.Module) -> bool:
        return type(module) in (nn.LayerNorm, nn.RMSNorm)

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        if isinstance(module, nn.RMSNorm):
            return F.rms_norm(inputs, module.normalized_shape, None, module.eps)
        norm = cast("nn.LayerNorm", module)
        return F.layer_norm(inputs, norm.normalized_shape, None, None, norm.eps)

    def per_example(self, module: nn.Module, values: Tensor, batch: int) -> Tensor:
        kept = len(cast("nn.LayerNorm", module).normalized_shape)
        features = values.flatten(-kept)
        return features.reshape(features.shape[0], batch, -1, features.shape[-1]).sum(2)


class ChannelNormRule(ScaleShiftRule):
    """`nn.GroupNorm`, `nn.InstanceNorm`, and `nn.BatchNorm` on its running statistics: parameters lie along
    the dimension after the examples. Batch statistics tie examples together, so these are not for it."""

    name = "channel norm"

    def handles(self, module: nn.Module) -> bool:
        if type(module) in _BATCH_NORMS:
            return not module.training and module.running_mean is not None
        return type(module) is nn.GroupNorm or type(module) in _INSTANCE_NORMS

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        if isinstance(module, nn.GroupNorm):
            return F.group_norm(inputs, module.num_groups, None, None, module.eps)
        if isinstance(module, _INSTANCE_NORMS):
            norm = cast("nn.InstanceNorm1d", module)
            own = norm.training or not norm.track_running_stats
            return F.instance_norm(
                inputs, norm.running_mean, norm.running_var, None, None, own, 0.0, norm.eps
            )
        batch_norm = cast("nn.BatchNorm1d", module)
        mean, variance = batch_norm.running_mean, batch_norm.running_var
        return F.batch_norm(inputs, mean, variance, None, None, False, 0.0, batch_norm.eps)

    def per_example(self, module: nn.Module, values: Tensor, batch: int) -> Tensor:
        summed = values.sum(tuple(range(3, values.ndim))) if values.ndim > 3 else values
        return summed.unflatten(1, (batch, -1)).sum(2)
