"""Modules and weights under several names: computed right, and the model left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from wherefrom.gradients import GradientEngine
from wherefrom.task import Objective


class _Twice(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.again(torch.tanh(self.first(x)))))


class _Tied(nn.Module):
    """One weight in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = nn.Linear(3, 3)
        self.again.weight = self.first.weight
        self.head = nn.Linear(3, 2)

    forward = _Twice.forward


@pytest.mark.parametrize("build", [_Twice, _Tied])
def test_a_shared_module_is_swapped_everywhere_and_restored(build):
    torch.manual_seed(0)
    model = build().double().eval()
    before = copy.deepcopy(model.state_dict())
    kinds = {name: type(value) for name, value in model.named_parameters(remove_duplicate=False)}
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    objective = Objective(model, (x, y), loss="cross_entropy")
    other = {name: 2 * value for name, value in objective.parameters.values.items()}
    moved = objective.outputs(other, (x, y))
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        for value in doubled.parameters():
            value.mul_(2)
    assert torch.equal(moved, doubled(x))
    assert {name: type(value) for name, value in model.named_parameters(remove_duplicate=False)} == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.again is model.first or model.again.weight is model.first.weight


def test_a_module_whose_vmap_has_another_shape_is_taken_one_by_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)).double().eval()
    data = (torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1]))
    objective = Objective(model, data, loss="cross_entropy")
    engine = GradientEngine(objective)
    at = engine.linearise(objective.examples, slice(0, 5))
    rows = at.vjp_each(torch.ones(1, 5, 2, dtype=torch.float64))[:, 0]
    for i in range(5):
        model.zero_grad()
        model(data[0][i : i + 1]).sum().backward()
        expected = torch.cat([value.grad.reshape(-1) for value in model.parameters()])
        torch.testing.assert_close(rows[i], expected)
