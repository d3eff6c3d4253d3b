"""Many trainings at once: the same network, start and order of batches, each without some of the examples."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from small_networks import network
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

HIDDEN, CHANNELS = 12, (4, 8)  # of the two networks: under a thousand parameters


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent on the mean loss plus weight decay plus a gradient penalty.

    Attributes:
        name: in the table.
        parameter_penalty: weight of `‖∇_θ L_B‖²`, the batch's mean loss.
        input_penalty: weight of the batch's mean of `‖∇_x ℓ_i‖²`.
        batch_size, lr, steps: of the descent.
        decay: let the learning rate go to 0 as half a cosine.
        weight_decay: `α` of `(α/2)‖θ‖²`.
    """

    name: str
    parameter_penalty: float = 0.0
    input_penalty: float = 0.0
    batch_size: int = 20
    lr: float = 0.3
    steps: int = 800
    decay: bool = False
    weight_decay: float = 0.005


def train_replicas(
    recipe: Recipe, kind: str, data: tuple[Tensor, Tensor], weights: Tensor, seed: int
) -> list[nn.Module]:
    """One network per row of `weights`, all from the same start and with the same batches.

    Examples keep their weight `1/n`: one that is left out weighs 0 in its batch, whose size stays.

    Args:
        data: `(n, 1, side, side)` images in float64, `(n,)` labels.
        weights: `(replicas, n)`, 0 for an example that is left out.
        seed: of the start and of the order of batches.
    """
    x, y = data
    single = network(kind, x.shape[-1], seed, hidden=HIDDEN, channels=CHANNELS).double()
    count = len(weights)
    stacked = {
        name: value.detach().expand(count, *value.shape).clone().requires_grad_()
        for name, value in single.named_parameters()
    }
    values = list(stacked.values())
    outputs_of = vmap(lambda parameters, inputs: functional_call(single, parameters, (inputs,)))
    generator = torch.Generator().manual_seed(seed)
    queue: list[Tensor] = []
    for step in range(recipe.steps):
        if not queue:
            queue = list(torch.randperm(len(y), generator=generator).split(recipe.batch_size))
        rows = queue.pop(0)
        inputs = x[rows].expand(count, *x[rows].shape)
        if recipe.input_penalty:
            inputs = inputs.clone().requires_grad_()
        outputs = outputs_of(stacked, inputs)
        losses = cross_entropy(
            outputs.flatten(0, 1), y[rows].expand(count, -1).flatten(), reduction="none"
        ).view(count, -1)
        kept = weights[:, rows]
        # A sum over replicas: each one's gradient is its own, for no parameter is shared.
        mean = (kept * losses).sum() / len(rows)
        total = mean
        if recipe.parameter_penalty:
            gradients = torch.autograd.grad(mean, values, create_graph=True)
            total = total + recipe.parameter_penalty * sum(g.square().sum() for g in gradients)
        if recipe.input_penalty:
            (gradient,) = torch.autograd.grad(losses.sum(), [inputs], create_graph=True)
            sizes = gradient.square().flatten(2).sum(2)
            total = total + recipe.input_penalty * (kept * sizes).sum() / len(rows)
        lr = recipe.lr * (0.5 * (1 + math.cos(math.pi * step / recipe.steps)) if recipe.decay else 1.0)
        with torch.no_grad():
            for value, gradient in zip(values, torch.autograd.grad(total, values)):
                value -= lr * (gradient + recipe.weight_decay * value)
    return [_unstacked(single, stacked, row) for row in range(count)]


def _unstacked(single: nn.Module, stacked: dict[str, Tensor], row: int) -> nn.Module:
    model = copy.deepcopy(single)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(stacked[name][row])
    return model.eval()
