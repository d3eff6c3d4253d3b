"""Random normal numbers."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from wherefrom.gradients.projections.base import Projection, positive, size_of
from wherefrom.gradients.projections.exact_sums import BLOCK
from wherefrom.gradients.projections.random_words import GAUSSIAN, random_bytes
from wherefrom.gradients.projections.tiled import TiledProjection
from wherefrom.task import ParameterSet

# An entry is one of 2^16 equally likely normal quantiles, rounded to 2^-12.
_LEVELS = 2**16
_GRID = 2**12


class Gaussian(Projection):
    """Normal entries of variance `1/k`: 16 random bits for an entry.

    The normal distribution is cut into 65,536 equally likely levels on a grid of `2^-12`, of variance exactly
    one; the largest is 4.3 standard deviations. So sums are exact and equal to the last bit everywhere.

    Args:
        k: components.
        seed: of the entries.

    Raises:
        InputError: `k < 1`, or a seed that is no integer.

    Source: Johnson & Lindenstrauss 1984; Dasgupta & Gupta 2003.
    """

    name = "gaussian"

    def __init__(self, k: int, seed: int = 0):
        super().__init__(seed)
        self.k = positive("k", k, "the number of components")

    def bind(self, parameters: int | ParameterSet) -> _Normal:
        return _Normal(size_of(parameters), self.k, self.seed)

    def settings(self) -> dict[str, Any]:
        return {"projection": self.name, "k": self.k, "seed": self.seed}


@cache
def _levels() -> np.ndarray:
    """The quantiles as integers, in units of the grid."""
    return np.rint(ndtri((np.arange(_LEVELS) + 0.5) / _LEVELS) * _GRID)


class _Normal(TiledProjection):
    entry_bits = 15

    def __init__(self, p: int, k: int, seed: int):
        super().__init__(p, k, 1 / math.sqrt(k * float(np.mean(np.square(_levels())))))
        self._seed = seed

    def _tile(self, block: int, tile: int, components: int, device: torch.device) -> Float[Tensor, "r c"]:
        drawn = random_bytes(self._seed, GAUSSIAN, block, tile, 2 * components * BLOCK).view("<u2")
        return torch.from_numpy(_levels()[drawn].reshape(components, BLOCK)).to(device)
