"""Normalisation layers against autograd's per-example gradients."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.layers.layer_inputs import SELECTIONS, normal, seeded
from wherefrom.layers import rule_for
from wherefrom.layers.norms import ChannelNormRule, LayerNormRule
from wherefrom.testing import check_layer_rule


def with_statistics(norm: nn.Module) -> nn.Module:
    """With running statistics that are not zeros and ones."""
    for name, buffer in norm.named_buffers():
        if name == "running_mean":
            buffer.copy_(normal(*buffer.shape, seed=8))
        elif name == "running_var":
            buffer.copy_(normal(*buffer.shape, seed=9).square() + 0.5)
    return norm


@given(
    b=st.integers(1, 3),
    positions=st.lists(st.integers(1, 3), max_size=2),
    shape=st.lists(st.integers(2, 3), min_size=1, max_size=2),
    rms=st.booleans(),
    eps=st.sampled_from([1e-5, 0.1]),
)
@settings(max_examples=25)
def test_layer_and_rms_norm(b, positions, shape, rms, eps):
    module = seeded(lambda: (nn.RMSNorm if rms else nn.LayerNorm)(shape, eps=eps))
    (form,) = check_layer_rule(LayerNormRule(), module, normal(b, *positions, *shape))
    assert form.shape[0] == form.shape[2] == 1


def test_rms_norm_with_the_eps_of_its_dtype():
    check_layer_rule(LayerNormRule(), seeded(lambda: nn.RMSNorm(4)), normal(2, 3, 4))


def test_layer_norm_without_bias():
    check_layer_rule(LayerNormRule(), seeded(lambda: nn.LayerNorm(4, bias=False)), normal(2, 3, 4))


CHANNEL_NORMS = {
    "group": (lambda: nn.GroupNorm(2, 4), (3, 4, 5)),
    "group, no positions": (lambda: nn.GroupNorm(2, 4), (3, 4)),
    "group, images": (lambda: nn.GroupNorm(1, 4), (2, 4, 3, 2)),
    "instance": (lambda: nn.InstanceNorm1d(4, affine=True), (2, 4, 5)),
    "instance, images": (lambda: nn.InstanceNorm2d(2, affine=True), (2, 2, 3, 3)),
    "instance, running": (lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True), (2, 2, 3, 3)),
    "batch": (lambda: nn.BatchNorm1d(4), (3, 4)),
    "batch, positions": (lambda: nn.BatchNorm1d(4), (3, 4, 2)),
    "batch, images": (lambda: nn.BatchNorm2d(2), (2, 2, 3, 3)),
    "batch, volumes": (lambda: nn.BatchNorm3d(2), (2, 2, 2, 3, 2)),
}


@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_channel_norms(name):
    build, shape = CHANNEL_NORMS[name]
    check_layer_rule(ChannelNormRule(), with_statistics(seeded(build)), normal(*shape))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_of_scale_and_shift(selection):
    check_layer_rule(LayerNormRule(), seeded(lambda: nn.LayerNorm(3)), normal(2, 2, 3), parameters=selection)
    check_layer_rule(
        ChannelNormRule(), seeded(lambda: nn.GroupNorm(1, 3)), normal(2, 3, 2), parameters=selection
    )


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False).eval()])
def test_batch_statistics_are_not_handled(norm):
    assert rule_for(norm) is None
