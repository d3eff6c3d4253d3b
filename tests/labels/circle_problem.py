"""Six classes on a circle, each overlapping its neighbours, with wrong labels of two kinds."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from wherefrom import FullBatch, Influence
from wherefrom.studies.labels import LabelAudit

CLASSES = 6


def circle(n: int, noise: str, share: float, width: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, given and true labels; noise `spread` over all other classes or to the next `neighbour`."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(CLASSES, (n,), generator=generator)
    angle = 2 * math.pi * true / CLASSES
    x = torch.stack([angle.cos(), angle.sin()], 1).double()
    x = x + width * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    given = true.clone()
    wrong = torch.randperm(n, generator=generator)[: round(share * n)]
    steps = torch.randint(1, CLASSES, (len(wrong),), generator=generator) if noise == "spread" else 1
    given[wrong] = (true[wrong] + steps) % CLASSES
    return x, given, true


@functools.lru_cache
def circle_audit(
    noise: str, *, validation: bool = True, share: float = 0.12, width: float = 0.25
) -> tuple[LabelAudit, Tensor]:
    """Signs for a softmax regression on quadratic features, and which labels are wrong."""
    x, given, true = circle(500, noise, share, width, 0)
    held, labels, _ = circle(300, noise, 0.0, width, 1)
    model = nn.Linear(5, CLASSES).double()
    recipe = FullBatch(model, loss="cross_entropy", weight_decay=1e-3, gradient_tolerance=1e-7)
    trained = recipe((_quadratic(x), given), 0).eval()
    influence = Influence(
        trained, (_quadratic(x), given), loss="cross_entropy", weight_decay=1e-3, progress=False
    ).fit()
    return influence.labels((_quadratic(held), labels) if validation else None), given != true


def _quadratic(x: Tensor) -> Tensor:
    return torch.cat([x, x.square(), x[:, :1] * x[:, 1:]], 1)
