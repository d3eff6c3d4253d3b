"""Gradients of linear maps: sums over positions of outer products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.layers.forms import GradientForm

# Explicit gradients are made in pieces: those that are added up while in the nearest cache, those that are
# multiplied with many matrices in larger ones, for so many examples at once that the matrices' own reading
# is made up for.
_NEAR = 2 * 2**20
_FAR = 16 * 2**20
_TOGETHER = 128
# Below this many numbers, adding up one matrix at a time is mostly overhead.
_LONG = 8192


@dataclass(frozen=True)
class _Piece:
    """Explicit gradients of one root: `(n · g, w, i)`, rows `outputs` of the matrices of `examples`."""

    root: int
    examples: slice
    outputs: slice
    made: Tensor


class OuterProducts(GradientForm):
    """`G_kb = Σ_t δ_kbt a_btᵀ`: a linear map at `t` positions (1 for a plain dense layer).

    Args:
        activations: what enters the map.
        gradients: with respect to what leaves it.
        sequence: as in `Block`.
        left, right: bases in which the gradients are to be seen, as for `rotated`; they are applied to the
            factors or to the explicit gradients, whichever is less work.
    """

    def __init__(
        self,
        activations: Float[Tensor, "b t g i"],
        gradients: Float[Tensor, "k b t g o"],
        *,
        sequence: bool = False,
        left: Float[Tensor, "g o o"] | None = None,
        right: Float[Tensor, "g i i"] | None = None,
    ):
        self._activations, self._gradients = activations, gradients
        self._left, self._right = left, right
        self.sequence = sequence
        self.k, self.b, self.positions = gradients.shape[:3]
        self.shape = (gradients.shape[3], gradients.shape[4], activations.shape[3])

    @cached_property
    def activations(self) -> Float[Tensor, "b t g i"]:
        """What enters the map, rotated."""
        if self._right is None:
            return self._activations
        return torch.einsum("btgi,gij->btgj", self._activations, self._right)

    @cached_property
    def gradients(self) -> Float[Tensor, "k b t g o"]:
        """With respect to what leaves it, rotated."""
        if self._left is None:
            return self._gradients
        if self._gradients.stride(4) == 1:
            return torch.einsum("kbtgo,gop->kbtgp", self._gradients, self._left)
        # Channels before positions, as convolutions leave them.
        return (self._left.mT @ self._gradients.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)

    def rows(self) -> Float[Tensor, "k b m"]:
        g, o, i = self.shape
        if self.positions == 1:
            made = self.gradients[:, :, 0, :, :, None] * self.activations[None, :, 0, :, None, :]
            return made.reshape(self.k, self.b, g * o * i)
        out = self._activations.new_empty(self.k, self.b * g, o, i)
        for piece in self._explicit(self.b, o, out):
            if piece.made.data_ptr() != out[piece.root].data_ptr():
                out[piece.root] = piece.made
        return out.reshape(self.k, self.b, g * o * i)

    def inner(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "k b q"]:
        q, (g, o, i) = matrices.shape[0], self.shape
        if self.positions * q <= self.k * (self.positions + q):
            return self._inner_forward(matrices)
        found = self._activations.new_zeros(self.k, self.b, q)
        together = min(self.b, _TOGETHER)
        width = max(1, min(o, _FAR // (together * g * i * found.element_size())))
        for piece in self._explicit(together, width):
            flat = matrices[:, :, piece.outputs].reshape(q, -1)
            found[piece.root, piece.examples].addmm_(piece.made.reshape(-1, flat.shape[1]), flat.T)
        return found

    def _inner_forward(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "k b q"]:
        """`Σ_t δᵀ (X a)`, or `Σ_t (δᵀ X) a`: the wider side first where that serves all roots."""
        q, (g, o, i) = matrices.shape[0], self.shape
        activations, gradients = self.activations[None], self.gradients
        if o > i and self.k == 1:
            matrices, activations, gradients, o, i = (
                matrices.transpose(2, 3),
                gradients,
                activations,
                i,
                o,
            )
        activations, (roots, t) = activations[0], (gradients.shape[0], self.positions)
        stacked = matrices.permute(1, 3, 0, 2).reshape(g, i, q * o)
        found = activations.new_zeros(roots, self.b, q)
        each = max(1, min(self.b, 256 // t))
        width = max(1, min(q, _NEAR // (each * t * o * found.element_size())))
        for start in range(0, self.b, each):
            here = slice(start, start + each)
            for group in range(g):
                inputs = activations[here, :, group].reshape(-1, i)
                for first in range(0, q, width):
                    last = min(first + width, q)
                    made = (inputs @ stacked[group, :, first * o : last * o]).reshape(-1, t, last - first, o)
                    for root in range(roots):
                        outputs = gradients[root, here, :, group, :, None]  # (b, t, o, 1)
                        found[root, here, first:last] += (made @ outputs).sum((1, 3))
        return found

    def total(self) -> Float[Tensor, "k g o i"]:
        right = self.activations.permute(2, 0, 1, 3).flatten(1, 2)
        lefts = [gradients.permute(2, 3, 0, 1).flatten(2) for gradients in self.gradients]
        return torch.stack([left @ right for left in lefts])

    def squares(self) -> Float[Tensor, "g o i"]:
        g, o, i = self.shape
        if self.positions == 1:
            deltas = self.gradients[:, :, 0].square().sum(0)
            return torch.einsum("bgo,bgi->goi", deltas, self.activations[:, 0].square())
        total = self._activations.new_zeros(g, o, i)
        for piece in self._explicit(*self._near()):
            every = piece.made.reshape(-1, g, *piece.made.shape[1:])
            if every[0].numel() < _LONG:
                total[:, piece.outputs] += every.square_().sum(0)
                continue
            here = total[:, piece.outputs]
            for one in every:
                here.addcmul_(one, one)
        return total

    def weighted_squares(self, weights: Float[Tensor, "g o i"]) -> Float[Tensor, "k b"]:
        if self.positions == 1:
            inner = torch.einsum("bgi,goi->bgo", self.activations[:, 0].square(), weights)
            return (self.gradients[:, :, 0].square() * inner).sum((2, 3))
        found = self._activations.new_zeros(self.k, self.b)
        for piece in self._explicit(*self._near()):
            flat = weights[:, piece.outputs].reshape(-1)
            found[piece.root, piece.examples] += piece.made.square_().reshape(-1, flat.numel()) @ flat
        return found

    def squared_norms(self) -> Float[Tensor, "k b"]:
        if self.positions == 1:
            sizes = self.gradients[:, :, 0].square().sum(3) * self.activations[:, 0].square().sum(2)
            return sizes.sum(2)
        g, o, i = self.shape
        if self.positions * (o + i) > o * i:
            found = self._activations.new_zeros(self.k, self.b)
            for piece in self._explicit(*self._near()):
                found[piece.root, piece.examples] += (
                    piece.made.square_().flatten(1).sum(1).reshape(-1, g).sum(1)
                )
            return found
        # Σ_ts (δ_t·δ_s) (a_t·a_s)
        right = self._right_factor(self._activations)
        products = right @ right.mT
        found = self._activations.new_empty(self.k, self.b * g)
        for root, gradients in enumerate(self._gradients):
            left = self._left_factor(gradients)
            torch.sum(left.mT @ left * products, dim=(1, 2), out=found[root])
        return found.reshape(self.k, self.b, g).sum(2)

    def rotated(
        self, left: Float[Tensor, "g o o"] | None, right: Float[Tensor, "g i i"] | None
    ) -> OuterProducts:
        return OuterProducts(self.activations, self.gradients, sequence=self.sequence, left=left, right=right)

    def activation_moment(self) -> tuple[Tensor, float]:
        g, _, i = self.shape
        rows = self.activations.permute(2, 0, 1, 3).reshape(g, self.b * self.positions, i)
        count = float(self.b * self.positions)
        if self.sequence and self.positions > 1:
            live = self._live()
            count = float(live.sum())
            if count < self.b * self.positions:
                rows = rows * live.reshape(1, -1, 1)
        return torch.bmm(rows.mT, rows), count

    def gradient_moment(self) -> Float[Tensor, "g o o"]:
        g, o, _ = self.shape
        if self.gradients.stride(4) == 1:
            rows = self.gradients.permute(3, 0, 1, 2, 4).reshape(g, -1, o)
            return torch.bmm(rows.mT, rows)
        columns = self.gradients.permute(3, 4, 0, 1, 2).reshape(g, o, -1)
        return torch.bmm(columns, columns.mT)

    def reduced(self) -> OuterProducts:
        """One position per example: the mean activation and the sum of the gradients ("reduce"). Padding,
        whose gradients vanish, is left out of the mean."""
        gradients = self.gradients.sum(2, keepdim=True)
        if not self.sequence or self.positions == 1:
            return OuterProducts(self.activations.mean(1, keepdim=True), gradients)
        live = self._live().to(self.activations.dtype)
        total = torch.einsum("bt,btgi->bgi", live, self.activations)
        means = total / live.sum(1).clamp(min=1)[:, None, None]
        return OuterProducts(means[:, None], gradients, sequence=True)

    def _live(self) -> Bool[Tensor, "b t"]:
        """Positions with a gradient; padding has none."""
        live = torch.zeros(self.b, self.positions, dtype=torch.bool, device=self._gradients.device)
        for gradients in self._gradients:
            live |= gradients.flatten(2).abs().amax(2) > 0
            if bool(live.all()):
                break
        return live

    def select(self, examples: slice) -> OuterProducts:
        return OuterProducts(
            self._activations[examples],
            self._gradients[:, examples],
            sequence=self.sequence,
            left=self._left,
            right=self._right,
        )

    def _near(self) -> tuple[int, int]:
        """Examples and rows whose explicit gradients stay in the nearest cache."""
        g, o, i = self.shape
        size = self._activations.element_size()
        together = max(1, min(self.b, _NEAR // (g * o * i * size)))
        return together, max(1, min(o, _NEAR // (g * i * size)))

    def _explicit(self, together: int, width: int, out: Tensor | None = None) -> Iterator[_Piece]:
        """Explicit gradients, root by root, of at most `together` examples and `width` rows at a time; into
        `out (k, b · g, o, i)` if given, otherwise each into the memory of the one before."""
        g, o, i = self.shape
        t = self.positions
        # Rotating the explicit gradients costs k·o·i·(i or o), rotating the factors t·i² and k·t·o².
        right_later = self._right is not None and t > self.k * o
        left_later = self._left is not None and t > i
        right = self._right_factor(self._activations if right_later else self.activations)
        gradients = self._gradients if left_later else self.gradients
        if left_later or g > 1:
            width = o
        buffer = right.new_empty(min(together, self.b) * g * width * i) if out is None else None
        for root in range(self.k):
            left = self._left_factor(gradients[root])
            for start in range(0, self.b, together):
                here = slice(start, min(start + together, self.b))
                rows = slice(here.start * g, here.stop * g)
                for first in range(0, o, width):
                    outputs = slice(first, min(first + width, o))
                    shape = (rows.stop - rows.start, outputs.stop - first, i)
                    if out is not None:
                        made = out[root, rows]
                    else:
                        assert buffer is not None
                        made = buffer[: shape[0] * shape[1] * i].view(shape)
                    torch.bmm(left[rows, outputs], right[rows], out=made)
                    if right_later:
                        assert self._right is not None
                        made = (made.unflatten(0, (-1, g)) @ self._right).flatten(0, 1)
                    if left_later:
                        assert self._left is not None
                        made = (self._left.mT @ made.unflatten(0, (-1, g))).flatten(0, 1)
                    yield _Piece(root, here, outputs, made)

    def _left_factor(self, gradients: Float[Tensor, "b t g o"]) -> Float[Tensor, "bg o t"]:
        return gradients.permute(0, 2, 3, 1).reshape(self.b * self.shape[0], self.shape[1], self.positions)

    def _right_factor(self, activations: Float[Tensor, "b t g i"]) -> Float[Tensor, "bg t i"]:
        return activations.permute(0, 2, 1, 3).reshape(self.b * self.shape[0], self.positions, self.shape[2])


def rows_form(rows: Float[Tensor, "k b m"]) -> OuterProducts:
    """Explicit gradients as a block of one column: an outer product with 1."""
    k, b, m = rows.shape
    return OuterProducts(rows.new_ones(b, 1, 1, 1), rows.reshape(k, b, 1, 1, m))
