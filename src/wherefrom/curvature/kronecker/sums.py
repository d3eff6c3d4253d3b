"""Sums over training examples that several processes gather apart and add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from wherefrom.curvature.kronecker.ranges import Ranges
from wherefrom.errors import InputError
from wherefrom.layers import Block, GradientForm


class ExampleSums:
    """Named float64 sums over the examples that have been added.

    What several processes gather on parts of the data adds up, by `merge` in any order, to what one would
    gather, to the rounding of float64 sums.

    Attributes:
        sums: by name.
        covered: the examples in them.
        basis: fingerprint of the bases that they are taken in; empty where there are none.
    """

    def __init__(self, sums: dict[str, Tensor], covered: Ranges | None = None, basis: str = ""):
        self.sums = sums
        self.covered = covered if covered is not None else Ranges()
        self.basis = basis

    @property
    def n(self) -> int:
        """Examples in the sums."""
        return len(self.covered)

    def cover(self, where: slice) -> None:
        """Note that the examples `where` are in the sums."""
        self.covered = self.covered.joined(Ranges([(where.start, where.stop)]))

    def merge(self, other: ExampleSums) -> None:
        """Add the sums gathered on other examples.

        Raises:
            InputError: of another model or in other bases, or examples that are in both.
        """
        if type(other) is not type(self) or _shapes(self) != _shapes(other):
            raise InputError(
                "other: its blocks differ from these in name or shape; expected sums of the same kind, model "
                "and parameters"
            )
        if self.basis != other.basis:
            raise InputError(
                "other: gathered in other bases; expected sums that all processes gathered in the bases of "
                "the same merged moments. Compute these once and hand the file to every process."
            )
        covered = self.covered.joined(other.covered)
        for name, total in self.sums.items():
            total += other.sums[name].to(total.device)
        self.covered = covered

    def require(self, n: int) -> None:
        """Refuse sums that do not cover all `n` examples.

        Raises:
            InputError: which ones are missing.
        """
        missing = self.covered.missing(range(n))
        if missing.pairs or self.n != n:
            raise InputError(
                f"the sums cover {self.n:,} of {n:,} training examples; missing: {missing}. Gather and merge "
                "these first."
            )


class EigenvalueSums(ExampleSums):
    """`Σ (Q_Bᵀ G Q_A)²` of every block, over examples and roots of the output curvature."""

    @classmethod
    def empty(cls, blocks: Sequence[Block], basis: str) -> EigenvalueSums:
        """Nothing yet, in the bases with this fingerprint."""
        zeros = {
            block.name: torch.zeros(block.shape, dtype=torch.float64, device=block.index.device)
            for block in blocks
        }
        return cls(zeros, basis=basis)

    def add(self, blocks: Sequence[Block], rotated: Iterable[GradientForm]) -> None:
        """Add the gradients of all blocks in their bases, in order, of some roots of a batch."""
        for block, form in zip(blocks, rotated):
            self.sums[block.name] += form.squares()


def _shapes(sums: ExampleSums) -> dict[str, tuple[int, ...]]:
    return {name: tuple(total.shape) for name, total in sums.sums.items()}
