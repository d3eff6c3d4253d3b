"""`nn.MultiheadAttention`: the watched computation is the module's own, and its gradients are autograd's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.layers.layer_inputs import normal, seeded
from wherefrom.layers import Tape, rule_for
from wherefrom.layers.attention import MultiheadAttentionRule
from wherefrom.testing import check_layer_rule

B, L, S, E, HEADS = 3, 4, 5, 6, 2


def attention(**options: Any) -> nn.Module:
    return seeded(lambda: nn.MultiheadAttention(E, HEADS, **options))


def own(module: nn.Module) -> list[str]:
    """Parameters without those of `out_proj`, which has a rule of its own."""
    return [name for name, _ in module.named_parameters(recurse=False)]


def padding(boolean: bool = True) -> Tensor:
    mask = torch.zeros(B, S, dtype=torch.bool)
    mask[0, 3:] = True
    mask[2, 4:] = True
    return mask if boolean else torch.zeros(B, S, dtype=torch.float64).masked_fill(mask, float("-inf"))


@given(
    batch_first=st.booleans(),
    bias=st.booleans(),
    separate=st.booleans(),
    need_weights=st.booleans(),
    padded=st.sampled_from([None, True, False]),
    mask=st.sampled_from([None, "boolean", "float", "per head"]),
)
@settings(max_examples=40)
def test_cross_attention(batch_first, bias, separate, need_weights, padded, mask):
    widths = {"kdim": 3, "vdim": 5} if separate else {}
    module = attention(batch_first=batch_first, bias=bias, **widths)
    query, key, value = normal(B, L, E), normal(B, S, module.kdim, seed=1), normal(B, S, module.vdim, seed=2)
    masks = {
        None: None,
        "boolean": torch.ones(L, S, dtype=torch.bool).triu(2),
        "float": normal(L, S, seed=4),
        "per head": normal(B * HEADS, L, S, seed=5),
    }
    given_padding = None if padded is None else padding(mask == "boolean" or (mask is None and padded))

    def forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        arguments = inputs if batch_first else tuple(x.transpose(0, 1) for x in inputs)
        mixed, weights = module(
            *arguments,
            key_padding_mask=given_padding,
            attn_mask=masks[mask],
            need_weights=need_weights,
            average_attn_weights=bias,
        )
        mixed = mixed if batch_first else mixed.transpose(0, 1)
        return mixed.flatten(1) if weights is None else torch.cat([mixed.flatten(1), weights.flatten(1)], 1)

    forms = check_layer_rule(
        MultiheadAttentionRule(), module, (query, key, value), forward=forward, parameters=own(module)
    )
    assert len(forms) == 3


@pytest.mark.parametrize("padded", [False, True])
def test_causal_self_attention(padded):
    module = attention(batch_first=True)
    causal = nn.Transformer.generate_square_subsequent_mask(S, dtype=torch.float64)
    mask = padding(boolean=False) if padded else None

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        return module(x, x, x, mask, attn_mask=causal, is_causal=True, need_weights=False)[0]

    check_layer_rule(
        MultiheadAttentionRule(), module, normal(B, S, E), forward=forward, parameters=own(module)
    )


@pytest.mark.parametrize("selection", [["in_proj_weight"], ["in_proj_bias"]])
def test_a_selection_of_weight_and_bias(selection):
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        return module(x, x, x, need_weights=False)[0]

    check_layer_rule(
        MultiheadAttentionRule(),
        attention(batch_first=True),
        normal(B, L, E),
        forward=forward,
        parameters=selection,
    )


def test_only_the_separate_query_projection():
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        return module(x, x[..., :3], x[..., :4], need_weights=False)[0]

    (form,) = check_layer_rule(
        MultiheadAttentionRule(),
        attention(batch_first=True, kdim=3, vdim=4),
        normal(B, L, E),
        forward=forward,
        parameters=["q_proj_weight"],
    )
    assert form.shape == (1, E, E)


def test_what_cannot_be_watched_is_left_to_the_module():
    module, x = attention(), normal(L, E)
    before = module(x, x, x)[0]
    rule, tape = MultiheadAttentionRule(), Tape(L)
    index = {"in_proj_weight": torch.arange(3 * E * E).view(3 * E, E)}
    handle = rule.watch(module, rule.blocks("a", module, index), tape)
    torch.testing.assert_close(module(x, x, x)[0], before)  # no examples
    with pytest.raises(RuntimeError, match="is_causal"):
        module(x[None], x[None], x[None], is_causal=True)
    handle.remove()
    assert not tape.calls and "forward" not in vars(module)


@pytest.mark.parametrize("option", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_odd_options_are_not_handled(option):
    assert rule_for(nn.MultiheadAttention(4, 2, **option)) is None


def test_dropout_in_training_is_not_handled():
    module = nn.MultiheadAttention(4, 2, dropout=0.1)
    assert rule_for(module) is None
    assert rule_for(module.eval()) is not None


def test_a_module_with_a_forward_of_its_own_is_not_handled():
    module = nn.MultiheadAttention(4, 2)
    module.forward = lambda *arguments: arguments[0]
    assert rule_for(module) is None
