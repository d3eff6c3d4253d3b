"""Embedding tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.rule import LayerRule, parameter_names
from wherefrom.layers.tape import Call
from wherefrom.layers.token_outer_products import TokenOuterProducts


class EmbeddingRule(LayerRule):
    """`s_t = W[token_t]`: `∇_W = Σ_t e_{token_t} δ_tᵀ`, none for `padding_idx`.

    Not for `max_norm` (which changes the weights in the forward pass), `scale_grad_by_freq` (whose gradients
    depend on the batch) or `sparse` gradients.
    """

    name = "embedding"

    def handles(self, module: nn.Module) -> bool:
        if type(module) is not nn.Embedding:
            return False
        return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        names = parameter_names(path, index)
        return [Block(path or "model", self.name, "tokens", names, index["weight"].T[None], sequence=True)]

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        table = cast("nn.Embedding", module)
        tokens = torch.cat([call.inputs.reshape(batch, -1) for call in calls], dim=1)
        deltas = [call.gradient for call in calls if call.gradient is not None]
        gradients = torch.cat(
            [delta.reshape(delta.shape[0], batch, -1, delta.shape[-1]) for delta in deltas], dim=2
        )
        if table.padding_idx is not None:
            tokens = tokens.masked_fill(tokens == table.padding_idx, -1)
        return TokenOuterProducts(tokens, gradients, table.num_embeddings)
