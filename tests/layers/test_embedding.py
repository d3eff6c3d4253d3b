"""Embedding tables against autograd's per-example gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.layers.layer_inputs import seeded
from wherefrom.layers import Layouts
from wherefrom.layers.embedding import EmbeddingRule
from wherefrom.testing import check_layer_rule


def tokens(*shape: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


@given(
    b=st.integers(1, 4),
    positions=st.lists(st.integers(1, 4), max_size=2),
    vocabulary=st.integers(2, 6),
    width=st.integers(1, 4),
    padding=st.booleans(),
    cotangents=st.integers(1, 3),
)
@settings(max_examples=30)
def test_repeated_and_padding_tokens(b, positions, vocabulary, width, padding, cotangents):
    module = seeded(lambda: nn.Embedding(vocabulary, width, padding_idx=1 if padding else None))
    inputs = tokens(b, *positions, vocabulary=vocabulary)
    check_layer_rule(EmbeddingRule(), module, inputs, cotangents=cotangents)


def test_positions_that_all_examples_share():
    module = seeded(lambda: nn.Embedding(4, 3))
    scale = torch.arange(1.0, 4.0, dtype=torch.float64)[:, None, None]
    for inputs in (torch.arange(4), torch.arange(4)[None]):
        check_layer_rule(
            EmbeddingRule(),
            module,
            inputs,
            forward=lambda module, inputs: scale * module(inputs),
            layouts=Layouts(shared={"layer"}),
        )


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_options_that_change_gradients_are_not_handled(option):
    assert not EmbeddingRule().handles(nn.Embedding(4, 3, **option))


def test_moments_count_tokens():
    module = seeded(lambda: nn.Embedding(4, 2, padding_idx=0))
    (form,) = check_layer_rule(EmbeddingRule(), module, torch.tensor([[1, 1, 0], [2, 1, 3]]))
    moment, count = form.activation_moment()
    assert moment.tolist() == [0, 6, 2, 2] and count == 10  # called twice by the check
