"""Small tasks that an attack can be carried out on."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from tests.support import Plain, cross_entropy, digits, seeded
from wherefrom import FullBatch, Influence

ALPHA = 1e-3
OPTIONS = {"loss": "cross_entropy", "weight_decay": ALPHA}


def data(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    return digits(count, start=start, classes=3)


@functools.lru_cache
def frozen_network() -> nn.Module:
    """A linear head, trained to its optimum, on random features."""
    model = seeded(lambda: nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 3)))
    model[0].requires_grad_(False)
    return FullBatch(model, **OPTIONS)(data(60), 0).eval()


@functools.lru_cache
def head() -> Influence:
    return Influence(frozen_network(), data(60), progress=False, **OPTIONS).fit()


def plain_head(edited: Tensor | None = None) -> Plain:
    """The head's training problem in plain torch, on the features of edited inputs."""
    model = frozen_network()
    x, y = data(60)
    with torch.no_grad():
        features = model[:2](x if edited is None else edited)
    return Plain(model[2], cross_entropy, (features, y), ALPHA)


def recipe() -> FullBatch:
    """Trains the head anew; a fresh initialisation would draw other features."""
    return FullBatch(frozen_network(), **OPTIONS)
