"""Modules without a rule of their own against autograd's per-example gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.layers.layer_inputs import normal, seeded
from wherefrom.layers import Layouts, PlainModuleRule
from wherefrom.testing import check_layer_rule


class Scale(nn.Module):
    """With a parameter, a buffer, and an argument given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(3))
        self.power = nn.Parameter(torch.ones(()))
        self.register_buffer("offset", torch.arange(3.0))

    def forward(self, x: Tensor, *, shift: Tensor | float = 0.0) -> Tensor:
        return self.gamma * torch.exp(self.power * torch.tanh(x + self.offset + shift))


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 3), (2, 2, 2, 3)])
def test_positions(shape):
    check_layer_rule(PlainModuleRule(), seeded(Scale), normal(*shape))


def test_named_arguments_of_every_example_and_of_none():
    def forward(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        x, shift = inputs
        return torch.cat(
            [module(x, shift=shift), module(x=x, shift=0.5), module(x, shift=shift[:1, 0])], dim=1
        )

    check_layer_rule(
        PlainModuleRule(), seeded(Scale), (normal(2, 4, 3), normal(2, 4, 3, seed=1)), forward=forward
    )


def test_flattened_positions():
    def forward(module: nn.Module, inputs: Tensor) -> Tensor:
        return module(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])

    check_layer_rule(PlainModuleRule(), seeded(Scale), normal(2, 4, 3), forward=forward)


def test_examples_in_the_second_dimension():
    check_layer_rule(
        PlainModuleRule(),
        seeded(Scale),
        normal(4, 2, 3),
        forward=lambda module, inputs: module(inputs).transpose(0, 1),
        layouts=Layouts(second={"layer"}),
    )


def test_a_selection_of_parameters():
    (form,) = check_layer_rule(PlainModuleRule(), seeded(Scale), normal(2, 4, 3), parameters=["power"])
    assert form.shape == (1, 1, 1)


def test_transposed_convolution():
    module = seeded(lambda: nn.ConvTranspose2d(2, 3, 2, stride=2))
    check_layer_rule(PlainModuleRule(), module, normal(2, 2, 3, 3))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_several_inputs():
    check_layer_rule(
        PlainModuleRule(),
        seeded(lambda: nn.Bilinear(3, 4, 2)),
        (normal(5, 3), normal(5, 4, seed=1)),
        forward=lambda module, inputs: module(*inputs),
    )


def test_containers_and_modules_with_submodules_are_not_handled():
    rule = PlainModuleRule()
    assert not rule.handles(nn.Sequential(nn.Linear(1, 1)))
    assert not rule.handles(nn.ParameterList([nn.Parameter(torch.ones(1))]))
