"""Dense random matrices of integers that are made tile by tile when they are needed and never held whole."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients.projections.base import BoundProjection
from wherefrom.gradients.projections.exact_sums import BLOCK, slices

# Components of a tile: 256 × 4096 entries take 8 MB. Both sizes are part of what a seed means.
COMPONENTS = 256


class TiledProjection(BoundProjection):
    """`P = scale · Z` with integers `|Z_ji| < 2^entry_bits`.

    Results are equal to the last bit for any batch, thread count or device, as all sums are exact until they
    are added up block by block. The first components of a larger `k` are those of a smaller one, but for the
    scale.

    Cost for `b` rows: `2·b·p·k` operations in float64 (twice that for float64 rows) and `p·k` random entries;
    8 MB beside the rows.
    """

    entry_bits: int

    def __init__(self, p: int, k: int, scale: float):
        super().__init__(p, k)
        self.scale = scale

    @abstractmethod
    def _tile(self, block: int, tile: int, components: int, device: torch.device) -> Float[Tensor, "r c"]:
        """The first `components` rows of a tile of `Z`, `BLOCK` columns, in float64."""

    def _apply(self, rows: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        total = torch.zeros(rows.shape[0], self.k, dtype=torch.float64, device=rows.device)
        for block, start in enumerate(range(0, self.p, BLOCK)):
            part = rows[:, start : start + BLOCK]
            split = slices(part, self.entry_bits)
            for tile, first in enumerate(range(0, self.k, COMPONENTS)):
                components = min(COMPONENTS, self.k - first)
                matrix = self._tile(block, tile, components, rows.device)[:, : part.shape[1]]
                for one in split:
                    total[:, first : first + components] += (one.integers @ matrix.T) * one.unit
        return (total * self.scale).to(rows.dtype)

    def _adjoint(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "b p"]:
        made = torch.empty(rows.shape[0], self.p, dtype=rows.dtype, device=rows.device)
        split = [slices(part, self.entry_bits) for part in rows.split(COMPONENTS, dim=1)]
        # Unit vectors, which ask for rows of P, touch one tile each.
        live = [(tile, parts) for tile, parts in enumerate(split) if bool(parts[0].integers.any())]
        for block, start in enumerate(range(0, self.p, BLOCK)):
            width = min(BLOCK, self.p - start)
            total = torch.zeros(rows.shape[0], width, dtype=torch.float64, device=rows.device)
            for tile, parts in live:
                components = parts[0].integers.shape[1]
                matrix = self._tile(block, tile, components, rows.device)[:, :width]
                for one in parts:
                    total += (one.integers @ matrix) * one.unit
            made[:, start : start + width] = (total * self.scale).to(rows.dtype)
        return made
