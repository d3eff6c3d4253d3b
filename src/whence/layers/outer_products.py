"""Gradients of linear maps: sums over positions of outer products."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whence.layers.forms import GradientForm

# Explicit gradients are made in pieces of this many bytes, so that they are used while in cache.
_PIECE = 8 * 2**20
# Examples whose products with explicit matrices go together.
_TILE = 1024


class OuterProducts(GradientForm):
    """`G_kb = Σ_t δ_kbt a_btᵀ`: a linear map at `t` positions (1 for a plain dense layer).

    Args:
        activations: what enters the map.
        gradients: with respect to what leaves it.
        sequence: as in `Block`.
    """

    def __init__(
        self,
        activations: Float[Tensor, "b t g i"],
        gradients: Float[Tensor, "k b t g o"],
        *,
        sequence: bool = False,
    ):
        self.activations = activations
        self.gradients = gradients
        self.sequence = sequence
        self.k, self.b, self.positions = gradients.shape[:3]
        self.shape = (gradients.shape[3], gradients.shape[4], activations.shape[3])

    def rows(self) -> Float[Tensor, "k b m"]:
        g, o, i = self.shape
        if self.positions == 1:
            made = self.gradients[:, :, 0, :, :, None] * self.activations[None, :, 0, :, None, :]
            return made.reshape(self.k, self.b, g * o * i)
        # One product of (o, t) and (t, i) per cotangent, example and group.
        left = self.gradients.permute(0, 1, 3, 4, 2).reshape(self.k * self.b * g, o, self.positions)
        right = self.activations.permute(0, 2, 1, 3)
        if self.k > 1:
            right = right.expand(self.k, *right.shape)
        made = torch.bmm(left, right.reshape(self.k * self.b * g, self.positions, i))
        return made.view(self.k, self.b, g * o * i)

    def pieces(self) -> list[OuterProducts]:
        """The same in runs of examples whose explicit gradients fit the cache."""
        g, o, i = self.shape
        each = self.k * g * o * i * self.activations.element_size()
        size = max(1, _PIECE // max(each, 1))
        return [self.select(slice(start, start + size)) for start in range(0, self.b, size)]

    def inner(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "k b q"]:
        q, (_, o, i) = matrices.shape[0], self.shape
        if self.positions == 1 and self.k == 1 and q * min(o, i) < 4 * o * i:
            return self._inner_forward(matrices)
        flat = matrices.reshape(q, -1).T
        return torch.cat([piece.rows() @ flat for piece in self.pieces()], dim=1)

    def _inner_forward(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "1 b q"]:
        """`δᵀ (X a)`, or `(δᵀ X) a`: the wider side first, in tiles whose products stay in cache."""
        q, (g, o, i) = matrices.shape[0], self.shape
        made = matrices.new_zeros(self.b, q)
        step = max(1, _PIECE // (min(self.b, _TILE) * min(o, i) * matrices.element_size()))
        for group in range(g):
            activations, gradients = self.activations[:, 0, group], self.gradients[0, :, 0, group]
            for start in range(0, q, step):
                some = matrices[start : start + step, group]
                for first in range(0, self.b, _TILE):
                    rows = slice(first, first + _TILE)
                    if o <= i:
                        wide = activations[rows] @ some.reshape(-1, i).T
                        narrow = gradients[rows]
                    else:
                        wide = torch.matmul(gradients[rows], some).transpose(0, 1)
                        narrow = activations[rows]
                    wide = wide.reshape(len(narrow), -1, min(o, i))
                    made[rows, start : start + step] += torch.bmm(wide, narrow[:, :, None])[:, :, 0]
        return made[None]

    def squares(self) -> Float[Tensor, "g o i"]:
        if self.positions == 1:
            deltas = self.gradients[:, :, 0].square().sum(0)
            return torch.einsum("bgo,bgi->goi", deltas, self.activations[:, 0].square())
        total = torch.zeros(self.shape, dtype=self.activations.dtype, device=self.activations.device)
        for piece in self.pieces():
            rows = piece.rows()
            total += rows.view(-1, total.numel()).square_().sum(0).view(self.shape)
        return total

    def weighted_squares(self, weights: Float[Tensor, "g o i"]) -> Float[Tensor, "k b"]:
        if self.positions == 1:
            inner = torch.einsum("bgi,goi->bgo", self.activations[:, 0].square(), weights)
            return (self.gradients[:, :, 0].square() * inner).sum((2, 3))
        return torch.cat([piece.rows().square_() @ weights.reshape(-1) for piece in self.pieces()], dim=1)

    def squared_norms(self) -> Float[Tensor, "k b"]:
        if self.positions == 1:
            sizes = self.gradients[:, :, 0].square().sum(3) * self.activations[:, 0].square().sum(2)
            return sizes.sum(2)
        return torch.cat([piece.rows().square_().sum(2) for piece in self.pieces()], dim=1)

    def rotated(
        self, left: Float[Tensor, "g o o"] | None, right: Float[Tensor, "g i i"] | None
    ) -> OuterProducts:
        gradients = self.gradients if left is None else torch.einsum("kbtgo,gop->kbtgp", self.gradients, left)
        activations = (
            self.activations if right is None else torch.einsum("btgi,gij->btgj", self.activations, right)
        )
        return OuterProducts(activations, gradients, sequence=self.sequence)

    def activation_moment(self) -> tuple[Tensor, float]:
        g, _, i = self.shape
        rows = self.activations.permute(2, 0, 1, 3).reshape(g, self.b * self.positions, i)
        count = float(self.b * self.positions)
        if self.sequence and self.positions > 1:
            live = (self.gradients != 0).any(dim=4).any(dim=3).any(dim=0)
            count = float(live.sum())
            if count < self.b * self.positions:
                rows = rows * live.reshape(1, -1, 1)
        return torch.bmm(rows.transpose(1, 2), rows), count

    def gradient_moment(self) -> Float[Tensor, "g o o"]:
        g, o, _ = self.shape
        rows = self.gradients.permute(3, 0, 1, 2, 4).reshape(g, -1, o)
        return torch.bmm(rows.transpose(1, 2), rows)

    def reduced(self) -> OuterProducts:
        """One position per example: the mean activation and the sum of the gradients ("reduce")."""
        return OuterProducts(self.activations.mean(1, keepdim=True), self.gradients.sum(2, keepdim=True))

    def select(self, examples: slice) -> OuterProducts:
        return OuterProducts(self.activations[examples], self.gradients[:, examples], sequence=self.sequence)


def rows_form(rows: Float[Tensor, "k b m"]) -> OuterProducts:
    """Explicit gradients as a block of one column: an outer product with 1."""
    k, b, m = rows.shape
    return OuterProducts(rows.new_ones(b, 1, 1, 1), rows.reshape(k, b, 1, 1, m))
