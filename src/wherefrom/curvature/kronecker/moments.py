"""Second moments of activations and gradients, layer by layer: the Kronecker factors, as sums that can be
merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wherefrom.curvature.kronecker.sums import ExampleSums
from wherefrom.layers import Block, GradientForm

# A side of a block wider than this keeps the identity as its basis: its covariance would not fit.
MAX_SIDE = 8192


@dataclass(frozen=True)
class BlockMoments:
    """Sums over examples and positions of one block, in float64.

    Attributes:
        activations: `Σ a aᵀ` `(g, i, i)`, its diagonal `(i,)` for one-hot activations, or `None` for a side
            wider than `MAX_SIDE`.
        gradients: `Σ δ δᵀ` `(g, o, o)`, or `None` likewise.
        positions: how many activations were summed.
    """

    activations: Tensor | None
    gradients: Tensor | None
    positions: float


class KroneckerMoments(ExampleSums):
    """The sums of all blocks."""

    @classmethod
    def empty(cls, blocks: Sequence[Block]) -> KroneckerMoments:
        """Nothing yet."""
        shapes: dict[str, tuple[int, ...]] = {}
        for block in blocks:
            g, o, i = block.shape
            if block.kind == "tokens":
                shapes[f"{block.name}:activations"] = (i,)
            elif i <= MAX_SIDE:
                shapes[f"{block.name}:activations"] = (g, i, i)
            if o <= MAX_SIDE:
                shapes[f"{block.name}:gradients"] = (g, o, o)
            shapes[f"{block.name}:positions"] = (1,)
        device = blocks[0].index.device
        sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()
        }
        return cls(sums)

    def add_gradients(self, blocks: Sequence[Block], forms: Sequence[GradientForm]) -> None:
        """Add the gradients' side: the forms of all blocks, in their order, of some roots of a batch."""
        for block, form in zip(blocks, forms):
            gradients = self.sums.get(f"{block.name}:gradients")
            if gradients is not None:
                gradients += form.gradient_moment()

    def add_activations(self, blocks: Sequence[Block], forms: Sequence[GradientForm]) -> None:
        """Add the activations' side, once for a batch: from forms whose gradients vanish at padding only."""
        for block, form in zip(blocks, forms):
            activations = self.sums.get(f"{block.name}:activations")
            if activations is not None:
                moment, count = form.activation_moment()
                activations += moment
                self.sums[f"{block.name}:positions"] += count

    def block(self, name: str) -> BlockMoments:
        """The sums of one block."""
        return BlockMoments(
            self.sums.get(f"{name}:activations"),
            self.sums.get(f"{name}:gradients"),
            float(self.sums[f"{name}:positions"]),
        )
