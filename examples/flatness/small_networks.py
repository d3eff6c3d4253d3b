"""The two networks of the flatness studies, and plain stochastic gradient descent to a training loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def network(
    kind: str, side: int, seed: int, *, hidden: int = 32, channels: tuple[int, int] = (6, 12)
) -> nn.Sequential:
    """`"mlp"`: one hidden layer; `"cnn"`: two strided convolutions and a linear layer; tanh."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return nn.Sequential(
                nn.Flatten(), nn.Linear(side * side, hidden), nn.Tanh(), nn.Linear(hidden, 10)
            )
        left = -(-side // 4)
        return nn.Sequential(
            nn.Conv2d(1, channels[0], 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(channels[0], channels[1], 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(channels[1] * left * left, 10),
        )


def loss_and_accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean cross-entropy, and the share of labels that are right."""
    with torch.no_grad():
        outputs = model(data[0])
        right = (outputs.argmax(1) == data[1]).double().mean()
        return float(cross_entropy(outputs, data[1])), float(right)


def descend(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    *,
    lr: float,
    batch_size: int,
    target: float,
    max_steps: int,
    seed: int,
    check_every: int = 10,
) -> tuple[int, float]:
    """SGD without momentum, weight decay or schedule, until the mean loss over all of `data` is ≤ `target`.

    Returns:
        The steps taken and the last loss over all of `data`, above `target` if `max_steps` ran out. The loss
        is looked at every `check_every` steps.
    """
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    queue: list[Tensor] = []
    loss = loss_and_accuracy(model, data)[0]
    for step in range(1, max_steps + 1):
        if not queue:
            # A last batch that is not full is left out of the epoch: every step sees as many examples.
            order = torch.randperm(len(y), generator=generator)
            queue = [part for part in order.split(batch_size) if len(part) == batch_size]
        rows = queue.pop()
        gradients = torch.autograd.grad(cross_entropy(model(x[rows]), y[rows]), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter -= lr * gradient
        if step % check_every == 0:
            loss = loss_and_accuracy(model, data)[0]
            if not loss > target:  # NaN ends the run, too
                return step, loss
    return max_steps, loss
