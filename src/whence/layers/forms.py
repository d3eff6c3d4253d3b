"""Per-example gradients of one block on one batch, kept as the factors they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Explicit gradients are made in pieces of this many bytes, so that they are used while in cache.
_PIECE = 8 * 2**20


class GradientForm(ABC):
    """Gradients `G_kb` of `b` examples for `k` cotangents each, as `g` matrices of `o × i`.

    Attributes:
        k, b: cotangents and examples.
        shape: `(g, o, i)`.
    """

    k: int
    b: int
    shape: tuple[int, int, int]

    @abstractmethod
    def rows(self) -> Float[Tensor, "k b m"]:
        """The gradients explicitly, row-major in `(g, o, i)`: `k · b · g · o · i` numbers."""

    @abstractmethod
    def inner(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "k b q"]:
        """`⟨G_kb, X_q⟩`."""

    @abstractmethod
    def squares(self) -> Float[Tensor, "g o i"]:
        """`Σ_kb G_kb²`, entry by entry."""

    @abstractmethod
    def weighted_squares(self, weights: Float[Tensor, "g o i"]) -> Float[Tensor, "k b"]:
        """`Σ_goi w_goi (G_kb)²_goi`."""

    @abstractmethod
    def rotated(
        self, left: Float[Tensor, "g o o"] | None, right: Float[Tensor, "g i i"] | None
    ) -> GradientForm:
        """`Q_Bᵀ G Q_A` for the bases `Q_B = left`, `Q_A = right`; `None` is the identity."""

    @abstractmethod
    def activation_moment(self) -> tuple[Tensor, float]:
        """`Σ a aᵀ` over examples and positions (its diagonal `(i,)` where activations are one-hot), and how
        many positions were counted."""

    @abstractmethod
    def gradient_moment(self) -> Float[Tensor, "g o o"]:
        """`Σ δ δᵀ` over cotangents, examples and positions."""

    @abstractmethod
    def select(self, examples: slice) -> GradientForm:
        """The same for some of the examples."""

    def squared_norms(self) -> Float[Tensor, "k b"]:
        """`‖G_kb‖²`."""
        return self.rows().square().sum(2)


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
        q, (g, o, i) = matrices.shape[0], self.shape
        if self.positions == 1 and self.k == 1 and q * min(o, i) < 4 * o * i:
            return self._inner_forward(matrices)
        flat = matrices.reshape(q, -1).T
        return torch.cat([piece.rows() @ flat for piece in self.pieces()], dim=1)

    def _inner_forward(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "1 b q"]:
        """`δᵀ (X a)`, or `(δᵀ X) a`: the wider side first, in runs of examples that stay in cache."""
        q, (g, o, i) = matrices.shape[0], self.shape
        activations, gradients = self.activations[:, 0], self.gradients[0, :, 0]
        if o > i:  # contract the wider side by the product
            matrices, activations, gradients, o, i = matrices.transpose(2, 3), gradients, activations, i, o
        stacked = matrices.permute(1, 3, 0, 2).reshape(g, i, q * o)
        size = max(1, _PIECE // (q * o * g * matrices.element_size()))
        parts = []
        for start in range(0, self.b, size):
            inputs, outputs = activations[start : start + size], gradients[start : start + size]
            made = torch.matmul(inputs.transpose(0, 1), stacked).view(g, -1, q, o)
            parts.append(torch.einsum("gbqo,bgo->bq", made, outputs))
        return torch.cat(parts)[None]

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
