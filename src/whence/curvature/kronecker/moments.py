"""Second moments of activations and gradients, layer by layer: the Kronecker factors, as sums that can be
merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.errors import InputError
from whence.layers import Block, GradientForm

# A side of a block wider than this keeps the identity as its basis: its covariance would not fit.
MAX_SIDE = 8192


@dataclass
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


class KroneckerMoments:
    """The sums of all blocks over `n` examples.

    What several processes gather on parts of the data adds up, by `merge`, to what one would gather.

    Attributes:
        n: examples.
        blocks: by name.
    """

    def __init__(self, blocks: Sequence[Block]):
        self.n = 0
        self.blocks = {block.name: _empty(block) for block in blocks}

    def add(self, forms: Iterable[GradientForm], examples: int) -> None:
        """Add a batch: the forms of all blocks, in their order."""
        self.n += examples
        for form, sums in zip(forms, self.blocks.values()):
            if sums.activations is not None:
                moment, count = form.activation_moment()
                sums.activations += moment
                sums.positions += count
            if sums.gradients is not None:
                sums.gradients += form.gradient_moment()

    def merge(self, other: KroneckerMoments) -> None:
        """Add the sums gathered on other examples.

        Raises:
            InputError: of another model.
        """
        if _shapes(self) != _shapes(other):
            raise InputError(
                "other: its blocks differ from these in name or shape; expected moments of the same model "
                "and parameters"
            )
        self.n += other.n
        for name, sums in self.blocks.items():
            more = other.blocks[name]
            sums.positions += more.positions
            if sums.activations is not None and more.activations is not None:
                sums.activations += more.activations
            if sums.gradients is not None and more.gradients is not None:
                sums.gradients += more.gradients


def _empty(block: Block) -> BlockMoments:
    g, o, i = block.shape
    device = block.index.device
    sides: list[Tensor | None] = []
    for width in (i, o):
        fits = width <= MAX_SIDE
        sides.append(torch.zeros(g, width, width, dtype=torch.float64, device=device) if fits else None)
    if block.kind == "tokens":
        sides[0] = torch.zeros(i, dtype=torch.float64, device=device)
    return BlockMoments(sides[0], sides[1], 0.0)


def _shapes(moments: KroneckerMoments) -> dict[str, list[tuple[int, ...] | None]]:
    return {
        name: [None if side is None else tuple(side.shape) for side in (sums.activations, sums.gradients)]
        for name, sums in moments.blocks.items()
    }
