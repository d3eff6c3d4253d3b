"""Gradients of embedding tables: outer products with one-hot activations, kept as indices."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence.layers.forms import GradientForm


class TokenOuterProducts(GradientForm):
    """`G_kb = Σ_t δ_kbt e_{token(b,t)}ᵀ`: the weights of an embedding, one-hot activations kept as indices.

    Args:
        tokens: which column each position touches; negative where none.
        gradients: with respect to the embedded vectors.
        vocabulary: `i`.
    """

    def __init__(self, tokens: Int[Tensor, "b t"], gradients: Float[Tensor, "k b t o"], vocabulary: int):
        self.tokens = tokens.clamp(min=0)
        self.gradients = gradients.masked_fill((tokens < 0)[None, :, :, None], 0)
        self.k, self.b, self.positions, width = gradients.shape
        self.shape = (1, width, vocabulary)

    def rows(self) -> Float[Tensor, "k b m"]:
        _, o, i = self.shape
        made = self.gradients.new_zeros(self.k, self.b, i, o)
        where = self.tokens[None, :, :, None].expand_as(self.gradients)
        made.scatter_add_(2, where, self.gradients)
        return made.transpose(2, 3).reshape(self.k, self.b, o * i)

    def inner(self, matrices: Float[Tensor, "q 1 o i"]) -> Float[Tensor, "k b q"]:
        table = matrices[:, 0].permute(2, 0, 1)  # (i, q, o)
        parts = []
        for example in range(self.b):
            picked = table[self.tokens[example]]  # (t, q, o)
            parts.append(torch.einsum("kto,tqo->kq", self.gradients[:, example], picked))
        return torch.stack(parts, dim=1)

    def squares(self) -> Float[Tensor, "g o i"]:
        _, o, i = self.shape
        total = torch.zeros(i, o, dtype=self.gradients.dtype, device=self.gradients.device)
        sums, tokens = self._per_token()
        total.index_add_(0, tokens, sums.square().sum(0))
        return total.T[None].contiguous()

    def weighted_squares(self, weights: Float[Tensor, "g o i"]) -> Float[Tensor, "k b"]:
        sums, tokens = self._per_token()
        each = (sums.square() * weights[0].T[tokens]).sum(2)
        made = torch.zeros(self.k, self.b, dtype=each.dtype, device=each.device)
        return made.index_add_(1, self._owners(), each)

    def squared_norms(self) -> Float[Tensor, "k b"]:
        sums, _ = self._per_token()
        made = torch.zeros(self.k, self.b, dtype=sums.dtype, device=sums.device)
        return made.index_add_(1, self._owners(), sums.square().sum(2))

    def rotated(
        self, left: Float[Tensor, "g o o"] | None, right: Float[Tensor, "g i i"] | None
    ) -> TokenOuterProducts:
        gradients = self.gradients if left is None else self.gradients @ left[0]
        return TokenOuterProducts(self.tokens, gradients, self.shape[2])

    def activation_moment(self) -> tuple[Tensor, float]:
        live = (self.gradients != 0).any(dim=3).any(dim=0)
        counts = torch.bincount(self.tokens[live], minlength=self.shape[2])
        return counts.to(self.gradients.dtype), float(live.sum())

    def gradient_moment(self) -> Float[Tensor, "g o o"]:
        rows = self.gradients.reshape(-1, self.shape[1])
        return (rows.T @ rows)[None]

    def select(self, examples: slice) -> TokenOuterProducts:
        return TokenOuterProducts(self.tokens[examples], self.gradients[:, examples], self.shape[2])

    def _keys(self) -> tuple[Tensor, Tensor]:
        owners = torch.arange(self.b, device=self.tokens.device)[:, None]
        return torch.unique(owners * self.shape[2] + self.tokens, return_inverse=True)

    def _owners(self) -> Int[Tensor, " u"]:
        """Which example each pair of `_per_token` belongs to."""
        return self._keys()[0] // self.shape[2]

    def _per_token(self) -> tuple[Float[Tensor, "k u o"], Int[Tensor, " u"]]:
        """Gradients summed over the positions of the same token in the same example, and those tokens."""
        keys, inverse = self._keys()
        width = self.shape[1]
        sums = self.gradients.new_zeros(self.k, len(keys), width)
        sums.index_add_(1, inverse.reshape(-1), self.gradients.reshape(self.k, -1, width))
        return sums, keys % self.shape[2]
