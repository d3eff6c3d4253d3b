"""Examples of a pass follow the memory budget, and nothing depends on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wherefrom.task import Objective


def objective(memory: object, n: int = 40) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5000), nn.Tanh(), nn.Linear(5000, 3)).eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 8, generator=generator)
    return Objective(
        model, (x, torch.randint(3, (n,), generator=generator)), loss="cross_entropy", memory=memory
    )


def test_what_operations_return_is_counted():
    """Two layers of 5000 numbers and the outputs: 40 kB an example, a quarter of the budget."""
    each = 4 * (5000 + 5000 + 3)
    for budget in (2**20, 4 * 2**20):
        assert objective(budget).pass_size == int(0.25 * budget) // each
    assert objective("1GB").pass_size == 256
    assert objective(2**20, n=1).pass_size >= 1


@pytest.mark.parametrize("budget", [1, 2**20, "1GB"])
def test_passes_cover_all_examples_once(budget):
    made = objective(budget)
    seen, outputs = [], []
    for where, out, targets in made.passes(made.examples):
        seen += range(where.start, where.stop)
        outputs.append(out)
        assert len(out) == len(targets) == where.stop - where.start and not out.requires_grad
    assert seen == list(range(40))
    whole = made.outputs(made.parameters.values, made.examples.batch(range(40)))
    torch.testing.assert_close(torch.cat(outputs), whole)
    losses = made.losses(made.parameters.values, made.examples.batch(range(40)))
    torch.testing.assert_close(made.measured(made.examples, made.loss), losses)
    moved = {name: 2 * value for name, value in made.parameters.values.items()}
    there = made.losses(moved, made.examples.batch(range(40)))
    torch.testing.assert_close(made.measured(made.examples, made.loss, moved), there)
