"""Operations counted on a forward pass, and products with the curvature in them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.problems import attention_tokens, linear_head, tanh_mlp
from wherefrom.gradients import GradientEngine
from wherefrom.gradients.operations import count_forward
from wherefrom.task import Objective


def test_matrix_products_are_counted_by_example():
    counted = count_forward(tanh_mlp().objective())
    sizes = [value.shape for value in tanh_mlp().model.parameters() if value.ndim == 2]
    assert counted.operations == 2 * sum(o * i for o, i in sizes)
    assert counted.calls >= 3  # two layers and the activation


def test_convolutions_are_counted():
    model = nn.Conv2d(2, 3, 3)
    objective = Objective(model, (torch.zeros(4, 2, 8, 8), torch.zeros(4, 3, 6, 6)), loss="squared_error")
    assert count_forward(objective).operations == 2 * (3 * 2 * 9) * 36


@pytest.mark.parametrize("build", [linear_head, tanh_mlp, attention_tokens])
def test_a_product_grows_with_its_columns_and_repeats(build):
    engine = GradientEngine(build().objective())
    assert 0 < engine.product_operations(1) < engine.product_operations(100)
    assert GradientEngine(build().objective()).product_operations(7) == engine.product_operations(7)
    wide = GradientEngine(build().objective(dtype=torch.float32))
    assert engine.operations_each == pytest.approx(2 * wide.operations_each, rel=0.3)
