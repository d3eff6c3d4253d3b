"""The small convolutional network of Figure 2 right: training, and retraining of many copies at once.

Independent of Wherefrom. Six convolutions with tanh, the mean over positions, a linear layer: 2,616
parameters. Weight decay acts on weights and not on biases:
`J(θ) = (1/n) Σ ℓ_i + (α/2) ‖weights‖²`. Both are as in the authors' released code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Parameters = dict[str, Tensor]
# Copies of the network in one vectorised pass: more need more memory and gain no speed.
COPIES = 25
NONE = -1  # the row to remove for a copy that keeps all


@dataclass(frozen=True)
class Problem:
    """Training images (n, 1, side, side), labels (n,), and the weight decay α."""

    x: Tensor
    y: Tensor
    alpha: float

    @property
    def n(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Steps:
    """Gradient descent with momentum at a constant rate, on batches in an order that the seed settles.

    Attributes:
        count: how many steps.
    """

    rate: float
    momentum: float
    batch: int
    count: int
    seed: int

    def batches(self, n: int) -> Iterator[Tensor]:
        """Rows of each batch: each once before any comes again; too few for a batch are passed over."""
        generator = torch.Generator().manual_seed(self.seed)
        size, done = min(self.batch, n), 0
        while done < self.count:
            for rows in torch.randperm(n, generator=generator).split(size):
                if done < self.count and len(rows) == size:
                    yield rows
                    done += 1

    @property
    def times(self) -> np.ndarray:
        """`T` after each step, the steps' lengths added up: a direction of curvature σ has then been followed
        to about `1 − e^{−σT}`."""
        return np.arange(1, self.count + 1) * self.rate / (1 - self.momentum)


def network(seed: int, width: int = 8) -> nn.Sequential:
    """A fresh network for grey images, 28 × 28 pixels in the paper, 21 × 21 at the least."""
    torch.manual_seed(seed)
    convolutions: list[nn.Module] = []
    for inputs, size, stride in (
        (1, 3, 1),
        (width, 3, 2),
        (width, 3, 1),
        (width, 3, 2),
        (width, 3, 1),
    ):
        convolutions += [nn.Conv2d(inputs, width, size, stride), nn.Tanh()]
    model = nn.Sequential(
        *convolutions,
        nn.Conv2d(width, 10, 1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 10),
    )
    return model.eval()


def is_weight(name: str) -> bool:
    """Whether weight decay acts on this parameter."""
    return name.endswith("weight")


def objective(model: nn.Module, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Mean cross-entropy of some examples plus `(α/2) ‖weights‖²`."""
    decay = sum(p.square().sum() for name, p in model.named_parameters() if is_weight(name))
    return nn.functional.cross_entropy(model(x), y) + 0.5 * alpha * decay


def train(
    problem: Problem, model: nn.Sequential, *, epochs: int, rate: float, batch: int, seed: int
) -> nn.Sequential:
    """Train a fresh network by Adam in one cycle of its rate, which ends near zero; returns it."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    steps = epochs * -(-problem.n // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(problem.n, generator=generator).split(batch):
            optimiser.zero_grad()
            objective(model, problem.x[rows], problem.y[rows], problem.alpha).backward()
            optimiser.step()
            schedule.step()
    return model


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs (n, 10), in batches."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(500)])


def mean_gradient(problem: Problem, model: nn.Module) -> Parameters:
    """`(1/n) Σ ∇ℓ_i` at the model's parameters, without weight decay."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for rows in torch.arange(problem.n).split(500):
        loss = nn.functional.cross_entropy(model(problem.x[rows]), problem.y[rows], reduction="sum")
        for name, slope in zip(parameters, torch.autograd.grad(loss, list(parameters.values()))):
            total[name] += slope / problem.n
    return total


def retrain_without(
    problem: Problem,
    model: nn.Module,
    removed: np.ndarray,
    steps: Steps,
    measure: tuple[Tensor, Tensor],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Go on training from the model's parameters θ̃, once without each removed example (the others keep 1/n).

    Steps follow the gradient of the whole objective, estimated from a batch B with its variance reduced
    (Johnson & Zhang 2013), `∇J_B(θ) − ∇J_B(θ̃) + ∇J(θ̃)`; from it `(1/n) ∇ℓ_i(θ)` of the removed example is
    taken exactly. Near θ̃ that is full-batch descent at a small part of its price. All copies take the same
    steps with the same batches, many copies in one vectorised pass.

    Args:
        removed: rows; `NONE` removes none.
        measure: one image (1, 1, side, side) and its label (1,).

    Returns:
        (steps, len(removed)): the measured loss after each step.
    """
    anchor = mean_gradient(problem, model)
    found = []
    for first in range(0, len(removed), COPIES):
        rows = torch.from_numpy(np.asarray(removed[first : first + COPIES], dtype=np.int64))
        found.append(_retrain_copies(problem, model, anchor, rows, steps, measure))
        if progress is not None:
            progress(min(first + COPIES, len(removed)), len(removed))
    return np.concatenate(found, axis=1)


def _retrain_copies(
    problem: Problem,
    model: nn.Module,
    anchor: Parameters,
    removed: Tensor,
    steps: Steps,
    measure: tuple[Tensor, Tensor],
) -> np.ndarray:
    copies = len(removed)
    # The first copy stays at θ̃.
    parameters: Parameters = {
        name: p.detach().expand(copies + 1, *p.shape).clone() for name, p in model.named_parameters()
    }
    moving = {name: p[1:] for name, p in parameters.items()}
    velocity = {name: torch.zeros_like(p) for name, p in moving.items()}
    gone_x, gone_y = problem.x[removed].unsqueeze(1), problem.y[removed].unsqueeze(1)
    share = (removed != NONE).to(problem.x.dtype) / problem.n

    def loss(theta: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, theta, (x,)), y)

    on_batch = vmap(grad(loss), in_dims=(0, None, None))
    on_removed = vmap(grad(loss))
    measured = vmap(loss, in_dims=(0, None, None))
    losses = torch.zeros(steps.count, copies, dtype=torch.float64)
    for step, rows in enumerate(steps.batches(problem.n)):
        slopes = on_batch(parameters, problem.x[rows], problem.y[rows])
        own = on_removed(moving, gone_x, gone_y)
        for name, p in moving.items():
            shares = share.view(-1, *[1] * (p.ndim - 1))
            gradient = slopes[name][1:] - slopes[name][:1] + anchor[name] - shares * own[name]
            if is_weight(name):
                gradient += problem.alpha * p
            velocity[name].mul_(steps.momentum).add_(gradient)
            p.sub_(steps.rate * velocity[name])
        with torch.no_grad():
            losses[step] = measured(moving, *measure)
    return losses.numpy()
