"""Convolutions of every kind against autograd's per-example gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.layers.layer_inputs import SELECTIONS, normal, seeded
from wherefrom.layers.convolution import ConvolutionRule, patches
from wherefrom.testing import check_layer_rule

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def convolutions(draw) -> tuple[nn.Module, tuple[int, ...]]:
    dims = draw(st.integers(1, 3))
    most = 3 if dims < 3 else 2
    kernel = tuple(draw(st.integers(1, most)) for _ in range(dims))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    if dims == 3 and mode == "reflect":
        mode = "zeros"
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    if padding == "numbers":
        padding = tuple(draw(st.integers(0, 2)) for _ in range(dims))
    stride = tuple(1 if padding == "same" else draw(st.integers(1, 2)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    bias = draw(st.booleans())
    module = seeded(
        lambda: KINDS[dims](
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding_mode=mode,
        )
    )
    return module, (draw(st.integers(1, 3)), inputs, *(draw(st.integers(5, 6)) for _ in range(dims)))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@given(made=convolutions(), cotangents=st.integers(1, 2))
@settings(max_examples=60)
def test_stride_padding_dilation_and_groups(made, cotangents):
    module, shape = made
    check_layer_rule(ConvolutionRule(), module, normal(*shape), cotangents=cotangents)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_selection_of_weight_and_bias(selection, groups):
    module = seeded(lambda: nn.Conv2d(2, 4, 3, padding=1, groups=groups))
    check_layer_rule(ConvolutionRule(), module, normal(2, 2, 3, 4), parameters=selection)


def test_depthwise():
    module = seeded(lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3))
    (form,) = check_layer_rule(ConvolutionRule(), module, normal(2, 3, 4, 4))
    assert form.shape == (3, 2, 10)


def test_frames_of_a_film_as_positions():
    module = seeded(lambda: nn.Conv2d(2, 3, 2))

    def forward(module: nn.Module, inputs: Tensor) -> Tensor:
        return module(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])

    check_layer_rule(ConvolutionRule(), module, normal(2, 3, 2, 3, 3), forward=forward)


def test_channels_last_inputs():
    module = seeded(lambda: nn.Conv2d(2, 3, 3, padding=1)).to(memory_format=torch.channels_last)
    inputs = normal(2, 2, 4, 4).to(memory_format=torch.channels_last)
    check_layer_rule(ConvolutionRule(), module, inputs)


def test_an_input_without_examples_is_refused():
    module = seeded(lambda: nn.Conv2d(2, 3, 3))
    with pytest.raises(ValueError, match="input of 3 dimensions, expected 4"):
        patches(module, normal(2, 4, 4), ones=False)


def test_transposed_convolutions_are_not_handled():
    assert not ConvolutionRule().handles(nn.ConvTranspose2d(1, 1, 2))
