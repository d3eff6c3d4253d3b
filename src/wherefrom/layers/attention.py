"""`nn.MultiheadAttention`, which calls no submodule for its projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wherefrom.layers.block import Block
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.linear import linear_block, linear_form
from wherefrom.layers.rule import Handle, LayerRule
from wherefrom.layers.tape import Call, Tape

_PARTS = ("q", "k", "v")


class MultiheadAttentionRule(LayerRule):
    """The projections to queries, keys and values are three dense layers. While it is watched, the module
    runs the same computation with these three apart and calls its `out_proj` as a module.

    Not for `add_bias_kv`, `add_zero_attn` or dropout in training mode.
    """

    name = "attention"
    opens = True

    def handles(self, module: nn.Module) -> bool:
        if type(module) is not nn.MultiheadAttention or "forward" in vars(module):
            return False
        dropped = module.training and module.dropout > 0
        return module.bias_k is None and not module.add_zero_attn and not dropped

    def blocks(self, path: str, module: nn.Module, index: Mapping[str, Tensor]) -> list[Block]:
        blocks = []
        for position, part in enumerate(_PARTS):
            own = {}
            for name, entries in index.items():
                if name in ("in_proj_weight", "in_proj_bias"):
                    own[name] = entries.chunk(3)[position]
                elif name == f"{part}_proj_weight":
                    own[name] = entries
            if own:
                weight = next((entries for name, entries in own.items() if name.endswith("weight")), None)
                inside = f"{path}.{part}".lstrip(".")
                names = tuple(f"{path}.{name}".lstrip(".") for name in own)
                blocks.append(linear_block(inside, self.name, names, weight, own.get("in_proj_bias")))
        return blocks

    def watch(self, module: nn.Module, blocks: list[Block], tape: Tape) -> Handle:
        attention = cast("nn.MultiheadAttention", module)
        by_part = {block.name.rpartition(".")[2]: block for block in blocks}

        def tap(part: str, inputs: Tensor, output: Tensor) -> Tensor:
            return tape.tap(by_part[part], inputs, output) if part in by_part else output

        return _Replaced(attention, tap)

    def form(self, module: nn.Module, block: Block, calls: list[Call], batch: int) -> GradientForm:
        return linear_form(block, calls, batch)


class _Replaced:
    """The module's forward pass, exchanged until `remove`."""

    def __init__(self, module: nn.MultiheadAttention, tap: Callable[[str, Tensor, Tensor], Tensor]):
        self._module = module
        self._original = module.forward
        self._tap = tap
        module.forward = self._forward  # type: ignore[method-assign]

    def remove(self) -> None:
        del self._module.__dict__["forward"]

    def _forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() != 3 or query.is_nested or (is_causal and attn_mask is None):
            # Without examples, or refused by torch: none of the projections is seen.
            options: dict[str, Any] = {
                "key_padding_mask": key_padding_mask,
                "need_weights": need_weights,
                "attn_mask": attn_mask,
                "average_attn_weights": average_attn_weights,
                "is_causal": is_causal,
            }
            return self._original(query, key, value, **options)
        module = self._module
        sources = [x if module.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (
            self._tap(part, source, F.linear(source, *_projection(module, position))).unflatten(
                -1, (module.num_heads, -1)
            )
            for position, (part, source) in enumerate(zip(_PARTS, sources))
        )
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # (b, h, t, d)
        hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if hint else _merged(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=hint)
        output = module.out_proj(mixed.transpose(1, 2).flatten(2))
        return output if module.batch_first else output.transpose(0, 1), weights


def _projection(module: nn.MultiheadAttention, position: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the projection to queries, keys or values."""
    if module.in_proj_weight is not None:
        weight = module.in_proj_weight.chunk(3)[position]
    else:
        weight = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[position]
    bias = module.in_proj_bias
    return weight, None if bias is None else bias.chunk(3)[position]


def _merged(
    mask: Float[Tensor, "*l s"] | Bool[Tensor, "*l s"] | None,
    padding: Float[Tensor, "b s"] | Bool[Tensor, "b s"] | None,
    q: Float[Tensor, "b h l d"],
) -> Tensor | None:
    """What is added to the scores: `-inf` where a boolean mask is true."""
    parts = []
    if mask is not None:
        added = _added(mask, q.dtype)
        parts.append(added if added.ndim == 2 else added.unflatten(0, q.shape[:2]))
    if padding is not None:
        parts.append(_added(padding, q.dtype)[:, None, None])
    return None if not parts else sum(parts[1:], start=parts[0])


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.is_floating_point():
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
