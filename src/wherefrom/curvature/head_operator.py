"""The Hessian of a linear last layer as an operator: `S ⊗ ẽẽᵀ` applied, never formed."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.softmax import blockwise_head_hessian, head_hessian
from wherefrom.errors import InputError
from wherefrom.linalg import LinearOperator
from wherefrom.losses._softmax import softmax_complement, softmax_curvature_apply

# Bytes of tangents that go through one product together.
_WORKSPACE = 64 << 20


class _HeadOperator(LinearOperator):
    """`(1/n) Σ_i S_i ⊗ ẽ_i ẽ_iᵀ` for curvatures `S_i` that a subclass applies."""

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        classes: int,
        include_bias: bool,
        weights: Float[Tensor, " n"] | None,
        lower_bound: float,
    ):
        n, width = features.shape
        if n == 0:
            raise InputError("the head's Hessian is a mean over examples and there are none; expected n ≥ 1.")
        if weights is not None and bool((weights < 0).any()):
            lower_bound = -math.inf
        size = classes * (width + include_bias)
        super().__init__(size, features.dtype, features.device, lower_bound)
        self.features = features
        self.classes = classes
        self.include_bias = include_bias
        self.weights = weights
        self.n_examples = n

    @abstractmethod
    def _curve(self, where: slice, tangents: Float[Tensor, "k b c"]) -> Float[Tensor, "k b c"]:
        """`S_i v_i` for consecutive examples, without their weights."""

    @abstractmethod
    def _entries(self, c: int, other: int) -> Float[Tensor, " n"]:
        """`S_i[c, other]`, without weights."""

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """`H V`: two matrix products with the features, `4 n c d` operations a column, and `O(n c)` between
        them."""
        n, d = self.features.shape
        c, k = self.classes, vectors.shape[1]
        heads = vectors[: c * d].T.reshape(k * c, d)
        biases = vectors[c * d :].T.reshape(k, 1, c) if self.include_bias else None
        weight = torch.zeros(k * c, d, dtype=self.dtype, device=self.device)
        bias = torch.zeros(k, c, dtype=self.dtype, device=self.device)
        rows = max(1, _WORKSPACE // (4 * max(1, k) * c * self.dtype.itemsize))
        for start in range(0, n, rows):
            where = slice(start, min(start + rows, n))
            chunk = self.features[where]
            tangents = (chunk @ heads.T).reshape(-1, k, c).transpose(0, 1)
            curved = self._curve(where, tangents if biases is None else tangents + biases)
            if self.weights is not None:
                curved = curved * self.weights[where, None]
            curved = curved.transpose(0, 1)
            weight.addmm_(curved.reshape(-1, k * c).T, chunk)
            bias += curved.sum(0)
        parts = [weight.reshape(k, c * d)] + ([bias] if self.include_bias else [])
        return torch.cat(parts, dim=1).T / n

    def diagonal(self) -> Float[Tensor, " p"]:
        """The diagonal, exactly: `(1/n) Σ_i S_i[c, c] ẽ_ij²`, one matrix product."""
        entries = torch.stack([self._weighted(c, c) for c in range(self.classes)])
        weight = (entries @ self.features.square()).reshape(-1)
        parts = [weight] + ([entries.sum(1)] if self.include_bias else [])
        return torch.cat(parts) / self.features.shape[0]

    def trace(self) -> float:
        """The trace, exactly: `(1/n) Σ_i tr S_i ‖ẽ_i‖²`, `O(n (c + d))` operations."""
        squares = self.features.double().square().sum(1) + float(self.include_bias)
        total = sum(self._weighted(c, c).double() for c in range(self.classes))
        return float((total * squares).sum() / self.features.shape[0])

    def class_block(self, c: int, other: int | None = None) -> Float[Tensor, "e e"]:
        """The block of class `c` with class `other` (its own by default), `(1/n) Σ_i S_i[c, c'] ẽ_i ẽ_iᵀ`,
        of size `d`, or `d + 1` with the bias last.

        Raises:
            InputError: no such class.
        """
        other = c if other is None else other
        for index in (c, other):
            if not 0 <= index < self.classes:
                raise InputError(f"class {index}: expected 0..{self.classes - 1}")
        n = self.features.shape[0]
        wide = self.features
        if self.include_bias:
            wide = torch.cat([wide, torch.ones(n, 1, dtype=self.dtype, device=self.device)], dim=1)
        return wide.T @ (self._weighted(c, other)[:, None] * wide) / n

    def _weighted(self, c: int, other: int) -> Float[Tensor, " n"]:
        entries = self._entries(c, other)
        return entries if self.weights is None else entries * self.weights

    def _some(self, indices: Int[Tensor, " b"]) -> tuple[Tensor, Tensor | None]:
        return self.features[indices], None if self.weights is None else self.weights[indices]


class HeadHessianOperator(_HeadOperator):
    """Hessian of the mean softmax cross-entropy in the last layer, `(1/n) Σ_i w_i S(p_i) ⊗ ẽ_i ẽ_iᵀ`.

    What `head_hessian` returns as a matrix, as an operator for solvers and spectra: memory is the features
    and the probabilities. The layout is `W` row by row, then `b` with `include_bias`. It equals the
    Gauss-Newton matrix and is positive semi-definite; `S 1 = 0` puts every direction that moves all classes
    alike into its null space.

    Args:
        features: `e`, the layer's input.
        logits: `z = W e (+ b)`, the layer's output.
        include_bias: whether the layer has a bias that is studied.
        weights: one factor per example in the mean; none means ones.

    Raises:
        InputError: no examples, or features and logits of different lengths.
    """

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        logits: Float[Tensor, "m c"],
        include_bias: bool,
        weights: Float[Tensor, " k"] | None = None,
    ):
        _require_rows(features, logits, weights, "logits")
        super().__init__(features, logits.shape[1], include_bias, weights, 0.0)
        self.logits = logits
        self.probabilities = torch.softmax(logits, dim=-1)
        self._own = self.probabilities * softmax_complement(self.probabilities)

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        features, weights = self._some(indices)
        return HeadHessianOperator(features, self.logits[indices], self.include_bias, weights)

    def to_dense(self) -> Float[Tensor, "p p"]:
        """The matrix in float64, by weighted Gram products of the features."""
        return head_hessian(self.features, self.logits, self.include_bias, self.weights, dtype=torch.float64)

    def _curve(self, where: slice, tangents: Float[Tensor, "k b c"]) -> Float[Tensor, "k b c"]:
        return softmax_curvature_apply(self.probabilities[where], tangents)

    def _entries(self, c: int, other: int) -> Float[Tensor, " n"]:
        p = self.probabilities
        return self._own[:, c] if c == other else -p[:, c] * p[:, other]


class BlockwiseHeadOperator(_HeadOperator):
    """The last layer's curvature under any loss, `(1/n) Σ_i w_i S_i ⊗ ẽ_i ẽ_iᵀ` with the blocks `S_i` given:
    `blockwise_head_hessian` as an operator.

    Args:
        features: `e`, the layer's input.
        blocks: `S_i = ∇²_z ℓ_i`, symmetric (`loss.hessian_blocks(outputs, targets)[:, 0]` for a loss whose
            outputs form one block).
        include_bias: whether the layer has a bias that is studied.
        weights: one factor per example in the mean; none means ones.
        semidefinite: promise that every `S_i` is positive semi-definite, as for a convex loss.

    Raises:
        InputError: no examples, or features and blocks of different lengths.
    """

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        blocks: Float[Tensor, "m c c"],
        include_bias: bool,
        weights: Float[Tensor, " k"] | None = None,
        *,
        semidefinite: bool = False,
    ):
        _require_rows(features, blocks, weights, "blocks")
        bound = 0.0 if semidefinite else -math.inf
        super().__init__(features, blocks.shape[1], include_bias, weights, bound)
        self.blocks = blocks
        self._semidefinite = semidefinite

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        features, weights = self._some(indices)
        return BlockwiseHeadOperator(
            features, self.blocks[indices], self.include_bias, weights, semidefinite=self._semidefinite
        )

    def to_dense(self) -> Float[Tensor, "p p"]:
        """The matrix in float64, by weighted Gram products of the features."""
        blocks = self.blocks if self.weights is None else self.weights[:, None, None] * self.blocks
        return blockwise_head_hessian(
            self.features, blocks, include_bias=self.include_bias, dtype=torch.float64
        )

    def _curve(self, where: slice, tangents: Float[Tensor, "k b c"]) -> Float[Tensor, "k b c"]:
        return torch.einsum("bij,kbj->kbi", self.blocks[where], tangents)

    def _entries(self, c: int, other: int) -> Float[Tensor, " n"]:
        return self.blocks[:, c, other]


def _require_rows(features: Tensor, outputs: Tensor, weights: Tensor | None, name: str) -> None:
    n = features.shape[0]
    for found, what in ((outputs, name), (weights, "weights")):
        if found is not None and found.shape[0] != n:
            raise InputError(
                f"{what} have {found.shape[0]} rows and features {n}; expected one of each per example."
            )
