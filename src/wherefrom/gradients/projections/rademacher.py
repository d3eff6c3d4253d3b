"""Random signs."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients.projections.base import Projection, positive, size_of
from wherefrom.gradients.projections.exact_sums import BLOCK
from wherefrom.gradients.projections.random_words import RADEMACHER, random_bytes
from wherefrom.gradients.projections.tiled import TiledProjection
from wherefrom.task import ParameterSet


class Rademacher(Projection):
    """Entries `±1/√k`, each with probability one half: one random bit for an entry.

    Args:
        k: components.
        seed: of the signs.

    Raises:
        InputError: `k < 1`, or a seed that is no integer.

    Source: Achlioptas 2003; for influence, Park et al. 2023 (TRAK), §3.
    """

    name = "rademacher"

    def __init__(self, k: int, seed: int = 0):
        super().__init__(seed)
        self.k = positive("k", k, "the number of components")

    def bind(self, parameters: int | ParameterSet) -> _Signs:
        return _Signs(size_of(parameters), self.k, self.seed)

    def settings(self) -> dict[str, Any]:
        return {"projection": self.name, "k": self.k, "seed": self.seed}


class _Signs(TiledProjection):
    entry_bits = 0

    def __init__(self, p: int, k: int, seed: int):
        super().__init__(p, k, 1 / math.sqrt(k))
        self._seed = seed

    def _tile(self, block: int, tile: int, components: int, device: torch.device) -> Float[Tensor, "r c"]:
        packed = random_bytes(self._seed, RADEMACHER, block, tile, components * BLOCK // 8)
        places = torch.arange(8, dtype=torch.uint8, device=device)
        bits = (torch.from_numpy(packed).to(device)[:, None] >> places) & 1
        return bits.view(components, BLOCK).double().mul_(2).sub_(1)
