"""Gradients of embedding tables: outer products with one-hot activations, kept as indices."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.layers.forms import GradientForm

# Columns of many matrices are copied together, as many tokens at a time as fit into so many bytes.
_COLUMNS = 16 * 2**20


class TokenOuterProducts(GradientForm):
    """`G_kb = Σ_t δ_kbt e_{token(b,t)}ᵀ`: the weights of an embedding, one-hot activations kept as indices.

    Args:
        tokens: which column each position touches; negative where none.
        gradients: with respect to the embedded vectors.
        vocabulary: `i`.
    """

    def __init__(self, tokens: Int[Tensor, "b t"], gradients: Float[Tensor, "k b t o"], vocabulary: int):
        self.tokens = tokens.clamp(min=0)
        none = tokens < 0
        self.gradients = gradients.masked_fill(none[None, :, :, None], 0) if bool(none.any()) else gradients
        self.k, self.b, self.positions, width = gradients.shape
        self.shape = (1, width, vocabulary)

    def rows(self) -> Float[Tensor, "k b m"]:
        _, o, i = self.shape
        made = self.gradients.new_zeros(self.k, self.b, i, o)
        where = self.tokens[None, :, :, None].expand_as(self.gradients)
        made.scatter_add_(2, where, self.gradients)
        return made.transpose(2, 3).reshape(self.k, self.b, o * i)

    def inner(self, matrices: Float[Tensor, "q 1 o i"]) -> Float[Tensor, "k b q"]:
        sums, tokens = self._per_token
        q, o = matrices.shape[0], self.shape[1]
        flat = matrices.reshape(q * o, -1)
        found = sums.new_zeros(self.k, self.b, q)
        distinct, counts = torch.unique_consecutive(tokens, return_counts=True)
        each = max(1, _COLUMNS // (q * o * sums.element_size()))
        start = 0
        for some, lengths in zip(distinct.split(each), counts.split(each)):
            # In two steps, each of which copies runs of memory.
            columns = flat.index_select(1, some).T.contiguous().reshape(-1, q, o).mT  # (tokens, o, q)
            stop = start + int(lengths.sum())
            products = [
                part @ column for part, column in zip(sums[:, start:stop].split(lengths.tolist(), 1), columns)
            ]
            found.index_add_(1, self._owners[start:stop], torch.cat(products, dim=1))
            start = stop
        return found

    def total(self) -> Float[Tensor, "k g o i"]:
        _, o, i = self.shape
        made = self.gradients.new_zeros(self.k, i, o)
        made.index_add_(1, self.tokens.reshape(-1), self.gradients.reshape(self.k, -1, o))
        return made.mT[:, None]

    def squares(self) -> Float[Tensor, "g o i"]:
        _, o, i = self.shape
        sums, tokens = self._per_token
        total = sums.new_zeros(i, o)
        total.index_add_(0, tokens, sums.square().sum(0))
        return total.T[None]

    def weighted_squares(self, weights: Float[Tensor, "g o i"]) -> Float[Tensor, "k b"]:
        sums, tokens = self._per_token
        return self._by_example((sums.square() * weights[0].index_select(1, tokens).T).sum(2))

    def squared_norms(self) -> Float[Tensor, "k b"]:
        return self._by_example(self._per_token[0].square().sum(2))

    def rotated(
        self, left: Float[Tensor, "g o o"] | None, right: Float[Tensor, "g i i"] | None
    ) -> TokenOuterProducts:
        """As in `GradientForm`; one-hot activations have no other basis, so `right` is `None`."""
        assert right is None
        gradients = self.gradients if left is None else self.gradients @ left[0]
        return TokenOuterProducts(self.tokens, gradients, self.shape[2])

    def activation_moment(self) -> tuple[Tensor, float]:
        live = (self.gradients.abs().amax(3) > 0).any(dim=0)
        counts = torch.bincount(self.tokens[live], minlength=self.shape[2])
        return counts.to(self.gradients.dtype), float(live.sum())

    def gradient_moment(self) -> Float[Tensor, "g o o"]:
        rows = self.gradients.reshape(-1, self.shape[1])
        return (rows.T @ rows)[None]

    def select(self, examples: slice) -> TokenOuterProducts:
        return TokenOuterProducts(self.tokens[examples], self.gradients[:, examples], self.shape[2])

    def per_token(self) -> tuple[Float[Tensor, "k u o"], Int[Tensor, " u"], Int[Tensor, " u"]]:
        """Gradients summed over the positions of the same token in the same example, those tokens (in
        ascending order), and the examples they belong to."""
        return *self._per_token, self._owners

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """Pairs of token and example that occur, sorted by token, and which pair each position belongs to."""
        owners = torch.arange(self.b, device=self.tokens.device)[:, None]
        return torch.unique(self.tokens * self.b + owners, return_inverse=True)

    @property
    def _owners(self) -> Int[Tensor, " u"]:
        """Which example each pair belongs to."""
        return self._keys[0] % self.b

    @cached_property
    def _per_token(self) -> tuple[Float[Tensor, "k u o"], Int[Tensor, " u"]]:
        """Gradients summed over the positions of the same token in the same example, and those tokens."""
        keys, inverse = self._keys
        width = self.shape[1]
        sums = self.gradients.new_zeros(self.k, len(keys), width)
        sums.index_add_(1, inverse.reshape(-1), self.gradients.reshape(self.k, -1, width))
        return sums, keys // self.b

    def _by_example(self, values: Float[Tensor, "k u"]) -> Float[Tensor, "k b"]:
        return values.new_zeros(self.k, self.b).index_add_(1, self._owners, values)
