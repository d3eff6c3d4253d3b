"""Random modules and inputs for the tests of the layer rules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Which of weight and bias are studied.
SELECTIONS = (("weight", "bias"), ("weight",), ("bias",))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(build: Callable[[], nn.Module], seed: int = 3) -> nn.Module:
    """In float64 and eval mode, all parameters random (norms start at ones and zeros)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build().double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64))
    return module
