"""What one block of parameters contributes to inner products of gradients, for a tile of examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.layers import Block, GradientForm, OuterProducts, TokenOuterProducts


class Side(ABC):
    """The gradients of a block for the roots of some examples."""

    @abstractmethod
    def scaled(self, scale: Float[Tensor, " p"]) -> Side:
        """Multiplied by the block's entries of `scale`."""

    @abstractmethod
    def add_products(self, other: Side, out: Float[Tensor, "r b s c"]) -> None:
        """Add the inner products with the gradients of another tile, which is kept in the same way."""


def separable(block: Block, scale: Float[Tensor, " p"]) -> bool:
    """Whether the block's entries of `scale` depend on one side of its matrices only."""
    return _along(block, scale) is not None


def _along(block: Block, scale: Tensor) -> tuple[bool, Tensor] | None:
    """`(True, (g, i))` for a scale of what enters the block, `(False, (g, o))` of what leaves it."""
    entries = scale[block.index]
    if bool((entries == entries[:, :1]).all()):
        return True, entries[:, 0]
    if bool((entries == entries[:, :, :1]).all()):
        return False, entries[:, :, 0]
    return None


def pairs_side(form: GradientForm, block: Block, dtype: torch.dtype, tile_rows: int) -> Side:
    """Kept as factors; products of positions are made for `tile_rows` roots and positions at a time."""
    tokens: Tensor | None = None
    activations: Tensor | None = None
    if isinstance(form, TokenOuterProducts):
        tokens, gradients = form.tokens, form.gradients[None]
    else:
        assert isinstance(form, OuterProducts)
        activations = form.activations.permute(2, 0, 1, 3).to(dtype).contiguous()
        gradients = form.gradients.permute(3, 0, 1, 2, 4)
    return _Pairs(
        block,
        activations,
        tokens,
        gradients.to(dtype).contiguous(),
        max(1, tile_rows // (form.k * form.positions)),
    )


def rows_side(form: GradientForm, block: Block, dtype: torch.dtype) -> Side:
    """Kept as explicit gradients."""
    return _Rows(block, form.rows().to(dtype))


@dataclass(frozen=True)
class _Pairs(Side):
    """`(a·a')(δ·δ')`, summed over pairs of positions and over groups.

    Attributes:
        activations: or `None` where they are one-hot.
        tokens: their columns there.
        gradients: per root.
        step: examples multiplied together.
        weights: of the columns of one-hot activations.
    """

    block: Block
    activations: Float[Tensor, "g b t i"] | None
    tokens: Int[Tensor, "b t"] | None
    gradients: Float[Tensor, "g r b t o"]
    step: int
    weights: Float[Tensor, " i"] | None = None

    def scaled(self, scale: Float[Tensor, " p"]) -> Side:
        found = _along(self.block, scale)
        assert found is not None
        enters, values = found[0], found[1].to(self.gradients.dtype)
        if not enters:
            return replace(self, gradients=self.gradients * values[:, None, None, None])
        if self.activations is None:
            return replace(self, weights=values[0])
        return replace(self, activations=self.activations * values[:, None, None])

    def add_products(self, other: Side, out: Float[Tensor, "r b s c"]) -> None:
        assert isinstance(other, _Pairs)
        for first in range(0, out.shape[1], self.step):
            here = slice(first, first + self.step)
            for second in range(0, out.shape[3], other.step):
                there = slice(second, second + other.step)
                for group in range(self.gradients.shape[0]):
                    self._add(other, group, here, there, out[:, here, :, there])

    def _add(self, other: _Pairs, group: int, here: slice, there: slice, out: Tensor) -> None:
        r, b, s, c = out.shape
        left, right = self.gradients[group, :, here], other.gradients[group, :, there]
        t, u, width = left.shape[2], right.shape[2], left.shape[3]
        products = left.reshape(-1, width) @ right.reshape(-1, width).T
        products = products.reshape(r, b * t, s, c * u)
        inner = self._inner(other, group, here, there)[None, :, None]
        if t == u == 1:
            out.addcmul_(products, inner)
        else:
            out += products.mul_(inner).reshape(r, b, t, s, c, u).sum((2, 5))

    def _inner(self, other: _Pairs, group: int, here: slice, there: slice) -> Float[Tensor, "x y"]:
        """`a·a'` for all examples and positions."""
        if self.activations is not None:
            assert other.activations is not None
            left, right = self.activations[group, here], other.activations[group, there]
            return left.flatten(0, 1) @ right.flatten(0, 1).T
        assert self.tokens is not None and other.tokens is not None
        tokens = self.tokens[here].reshape(-1)
        same = (tokens[:, None] == other.tokens[there].reshape(-1)).to(self.gradients.dtype)
        return same if self.weights is None else same * self.weights[tokens][:, None]


@dataclass(frozen=True)
class _Rows(Side):
    """Explicit gradients."""

    block: Block
    rows: Float[Tensor, "r b m"]

    def scaled(self, scale: Float[Tensor, " p"]) -> Side:
        return _Rows(self.block, self.rows * scale[self.block.index.reshape(-1)].to(self.rows.dtype))

    def add_products(self, other: Side, out: Float[Tensor, "r b s c"]) -> None:
        assert isinstance(other, _Rows)
        out += (self.rows.flatten(0, 1) @ other.rows.flatten(0, 1).T).reshape(out.shape)
