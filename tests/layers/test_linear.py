"""Dense layers against autograd's per-example gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.layers.layer_inputs import SELECTIONS, normal, seeded
from wherefrom.layers import Layouts
from wherefrom.layers.linear import LinearRule, TransposedLinearRule
from wherefrom.testing import check_layer_rule


class Conv1D(nn.Module):
    """As in Hugging Face's GPT-2: a dense layer with its weight the other way round."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(out)


@given(
    b=st.integers(1, 4),
    positions=st.lists(st.integers(1, 3), max_size=2),
    i=st.integers(1, 5),
    o=st.integers(1, 5),
    bias=st.booleans(),
    cotangents=st.integers(1, 3),
)
@settings(max_examples=25)
def test_linear_at_any_number_of_positions(b, positions, i, o, bias, cotangents):
    module = seeded(lambda: nn.Linear(i, o, bias=bias))
    check_layer_rule(LinearRule(), module, normal(b, *positions, i), cotangents=cotangents)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("positions", [(), (3,)])
def test_a_selection_of_weight_and_bias(selection, positions):
    module = seeded(lambda: nn.Linear(3, 4))
    forms = check_layer_rule(LinearRule(), module, normal(2, *positions, 3), parameters=selection)
    assert (
        forms[0].shape == {2: (1, 4, 4), 1: (1, 4, 3) if "weight" in selection else (1, 4, 1)}[len(selection)]
    )


@pytest.mark.parametrize("selection", SELECTIONS)
def test_transposed_weight(selection):
    check_layer_rule(
        TransposedLinearRule(), seeded(lambda: Conv1D(4, 3)), normal(2, 3, 3), parameters=selection
    )


def test_a_module_called_twice_with_different_lengths():
    module = seeded(lambda: nn.Linear(3, 2))

    def forward(module: nn.Module, inputs: Tensor) -> Tensor:
        return torch.cat([module(inputs), torch.tanh(module(2 * inputs[:, :1]))], dim=1)

    check_layer_rule(LinearRule(), module, normal(3, 2, 3), forward=forward)


def test_examples_in_the_second_dimension():
    module = seeded(lambda: nn.Linear(3, 2))
    check_layer_rule(
        LinearRule(),
        module,
        normal(4, 3, 3),
        forward=lambda module, inputs: module(inputs).transpose(0, 1),
        layouts=Layouts(second={"layer"}),
    )


def test_padding_positions_are_not_counted():
    module = seeded(lambda: nn.Linear(3, 2))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.float64)[:, :, None]
    (form,) = check_layer_rule(
        LinearRule(), module, normal(2, 3, 3), forward=lambda module, inputs: module(inputs) * mask
    )
    # check_layer_rule calls the module twice: twice three positions live out of twice six.
    moment, count = form.activation_moment()
    inputs = torch.cat([normal(2, 3, 3), torch.ones(2, 3, 1, dtype=torch.float64)], dim=2)
    live = inputs[mask[:, :, 0] > 0]
    assert count == 6
    torch.testing.assert_close(moment[0], 2 * live.T @ live)


def test_a_subclass_that_may_compute_something_else_is_not_handled():
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert not LinearRule().handles(Scaled(2, 2))
    with pytest.raises(AssertionError, match="does not handle"):
        check_layer_rule(LinearRule(), Scaled(2, 2), normal(2, 2))


def test_something_else_called_conv1d_is_not_handled():
    named = type("Conv1D", (nn.Conv1d,), {})
    assert not TransposedLinearRule().handles(named(2, 2, 1))
