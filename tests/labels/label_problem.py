"""Small classifications with a few wrong labels, and their influence functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from wherefrom import FullBatch, Influence

ALPHA = 0.02


@dataclass(frozen=True)
class Flipped:
    """Digits of a few classes with some labels changed; `loss` as the objective's, with its own labels."""

    model: nn.Module
    x: Tensor
    y: Tensor
    true: Tensor
    x_validation: Tensor
    y_validation: Tensor
    loss: Any

    @property
    def wrong(self) -> Tensor:
        return self.y != self.true

    @property
    def validation(self) -> tuple[Tensor, Tensor]:
        return self.x_validation, self.y_validation

    def influence(self, **options: Any) -> Influence:
        options = {"loss": self.loss, "weight_decay": ALPHA, "progress": False, **options}
        return Influence(self.model, (self.x, self.y), **options).fit()

    def recipe(self) -> FullBatch:
        return FullBatch(self.model, loss=self.loss, weight_decay=ALPHA, gradient_tolerance=1e-8)


def flipped_digits(n: int = 60, classes: int = 3, wrong: int = 6, hidden: int = 0, seed: int = 0) -> Flipped:
    """Digits pooled to 4 × 4 pixels, `wrong` of `n` labels changed, trained to the optimum."""
    x, y, x_validation, y_validation = _digits(n, classes)
    generator = torch.Generator().manual_seed(seed)
    given = y.clone()
    chosen = torch.randperm(n, generator=generator)[:wrong]
    given[chosen] = (y[chosen] + torch.randint(1, classes, (wrong,), generator=generator)) % classes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(16, hidden), nn.Tanh()] if hidden else []
        model = nn.Sequential(*layers, nn.Linear(hidden or 16, classes)).double()
    problem = Flipped(model, x, given, y, x_validation, y_validation, "cross_entropy")
    return _trained(problem)


def signed_digits(loss: Any, n: int = 50) -> Flipped:
    """Two digits with labels −1 and +1, a few changed, and one output."""
    x, y, x_validation, y_validation = _digits(n, 2)
    given = 2.0 * y - 1.0
    given[:4] *= -1.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 1), nn.Flatten(0)).double()
    problem = Flipped(model, x, given, 2.0 * y - 1.0, x_validation, 2.0 * y_validation - 1.0, loss)
    return _trained(problem)


def _trained(problem: Flipped) -> Flipped:
    model = problem.recipe()((problem.x, problem.y), 0).eval()
    return Flipped(**{**vars(problem), "model": model})


def _digits(n: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, labels = load_digits(n_class=classes, return_X_y=True)
    x = torch.as_tensor(images / 16.0).reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    y = torch.as_tensor(labels)
    return x[:n], y[:n], x[n : n + 40], y[n : n + 40]
