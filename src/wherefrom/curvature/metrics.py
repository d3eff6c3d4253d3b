"""Output-space curvatures `S_i`: what stands in the middle of `(1/n) Σ J_iᵀ S_i J_i`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.uniforms import placed_uniforms
from wherefrom.gradients import Evaluated, Linearisation
from wherefrom.losses import Loss

# Output blocks up to this size are formed and multiplied as matrices.
_EXPLICIT_BLOCK = 32


def by_example(values: Tensor) -> Float[Tensor, "k b o"]:
    """Values shaped `(k, *outputs.shape)` with what belongs to an example in one dimension, also for outputs
    `(b,)`."""
    return values.reshape(*values.shape[:2], -1)


class OutputMetric(ABC):
    """A symmetric matrix per example in the space of the model's outputs.

    Attributes:
        name: of the curvature it makes, as users write it.
        semidefinite: whether it is positive semi-definite for sure.
        couples_positions: whether `S_i` has entries between different positions (tokens) of one example.
    """

    name: str
    semidefinite = True
    couples_positions = False

    def __init__(self, loss: Loss):
        self.loss = loss

    @abstractmethod
    def count(self, at: Evaluated) -> int:
        """Roots `r` of an example, from shapes alone."""

    @abstractmethod
    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        """`r` vectors per example whose outer products add up to `S_i`; `where` names the examples. All at
        once: where `r` may be large, take them by `parts`."""

    def parts(
        self, at: Evaluated, where: slice | Tensor, numbers: int
    ) -> Iterator[tuple[slice, Float[Tensor, "q b *outputs"]]]:
        """The cotangents in their order, in parts of at most `numbers` entries (one root at least), each with
        its place among them."""
        roots = self.cotangents(at, where)
        step = _together(numbers, at.outputs.numel())
        for start in range(0, roots.shape[0], step):
            part = slice(start, min(start + step, roots.shape[0]))
            yield part, roots[part]

    def held_each(self, at: Evaluated) -> int:
        """Numbers per example that are held while parts are made, whatever their size."""
        return self.count(at) * (at.outputs.numel() // max(1, at.outputs.shape[0]))

    def apply(self, vectors: Tensor, at: Linearisation, where: slice | Tensor) -> Tensor:
        """`S_i v_i` for vectors of shape `(k, *outputs.shape)`."""
        roots = by_example(self.cotangents(at, where))
        inner = torch.einsum("rbo,kbo->krb", roots, by_example(vectors))
        return torch.einsum("krb,rbo->kbo", inner, roots).reshape(vectors.shape)


class _RootMetric(OutputMetric):
    """A metric that is block diagonal in the loss's positions, with the roots of its blocks."""

    @abstractmethod
    def _roots(self, at: Evaluated, positions: slice, columns: slice) -> Float[Tensor, "b s c r"]:
        """Some columns of the roots of some positions."""

    def count(self, at: Evaluated) -> int:
        _, s, c = self._shape(at)
        return s * self.loss.root_columns(c)

    def held_each(self, at: Evaluated) -> int:
        _, s, c = self._shape(at)
        # Blocks, and a copy of them in float64 while their roots are taken.
        return 4 * s * c if self.loss.roots_by_parts else 5 * s * c * c

    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        roots = self._roots(at, slice(None), slice(None))
        return self._spread(roots, at, slice(0, roots.shape[1]))

    def parts(
        self, at: Evaluated, where: slice | Tensor, numbers: int
    ) -> Iterator[tuple[slice, Float[Tensor, "q b *outputs"]]]:
        _, s, c = self._shape(at)
        r = self.loss.root_columns(c)
        whole = None if self.loss.roots_by_parts else self._roots(at, slice(None), slice(None))
        together = _together(numbers, at.outputs.numel())
        # Whole positions, or some columns of one.
        step, width = (together // r, r) if together >= r else (1, together)
        for first in range(0, s, max(1, step)):
            positions = slice(first, min(first + step, s))
            for start in range(0, r, width):
                columns = slice(start, min(start + width, r))
                made = (
                    self._roots(at, positions, columns) if whole is None else whole[:, positions, :, columns]
                )
                place = first * r + start
                count = made.shape[1] * made.shape[3]
                yield slice(place, place + count), self._spread(made, at, positions)

    def _shape(self, at: Evaluated) -> tuple[int, int, int]:
        """Examples, positions and values of a block."""
        b, s, c = self.loss.to_blocks(at.outputs.to("meta"), at.outputs, at.targets).shape
        return b, s, c

    def _spread(
        self, roots: Float[Tensor, "b q c r"], at: Evaluated, positions: slice
    ) -> Float[Tensor, "rq b *outputs"]:
        """One cotangent per column and position: blocks of different positions do not mix."""
        s = self._shape(at)[1]
        b, some, c, r = roots.shape
        if s == 1:
            blocks = roots.permute(3, 0, 1, 2)
        else:
            blocks = torch.zeros(some, r, b, s, c, dtype=roots.dtype, device=roots.device)
            number = torch.arange(some, device=roots.device)
            blocks[number, :, :, number + positions.start] = roots.permute(1, 3, 0, 2)
            blocks = blocks.reshape(some * r, b, s, c)
        return self.loss.from_blocks(blocks, at.outputs, at.targets)


class LossHessianMetric(_RootMetric):
    """`S_i = ∇²_f ℓ_i`: the generalised Gauss-Newton matrix (Schraudolph 2002)."""

    name = "ggn"

    def __init__(self, loss: Loss):
        super().__init__(loss)
        self.semidefinite = loss.convex
        # Blocks live as long as the linearisation they belong to, which may be kept between products; they
        # are up to 32 times as large as what it was sized for.
        self.room: float = math.inf
        self._blocks: WeakKeyDictionary[Linearisation, Tensor] = WeakKeyDictionary()

    def _roots(self, at: Evaluated, positions: slice, columns: slice) -> Float[Tensor, "b s c r"]:
        if positions == slice(None) == columns:
            return self.loss.hessian_sqrt_blocks(at.outputs, at.targets)
        return self.loss.hessian_sqrt_part(at.outputs, at.targets, positions, columns)

    def apply(self, vectors: Tensor, at: Linearisation, where: slice | Tensor) -> Tensor:
        blocks = self.loss.to_blocks(vectors, at.outputs, at.targets)
        k, c = blocks.shape[0], blocks.shape[-1]
        if c > _EXPLICIT_BLOCK or k < c // 2:
            return self.loss.hessian_apply(vectors, at.outputs, at.targets)
        if at not in self._blocks:
            made = self.loss.hessian_blocks(at.outputs, at.targets)
            if _size(made) + sum(map(_size, self._blocks.values())) > self.room:
                return self.loss.hessian_apply(vectors, at.outputs, at.targets)
            self._blocks[at] = made
        # One small product per example reads memory once; the closed form in `O(c)` passes over it several
        # times.
        product = torch.matmul(blocks.permute(1, 2, 0, 3), self._blocks[at]).permute(2, 0, 1, 3)
        return self.loss.from_blocks(product, at.outputs, at.targets)


class ExactFisherMetric(_RootMetric):
    """`S_i = E_{y~model}[∇_f ℓ ∇_f ℓᵀ]`, the expectation taken exactly over the model's labels."""

    name = "fisher"

    def _roots(self, at: Evaluated, positions: slice, columns: slice) -> Float[Tensor, "b s c r"]:
        if positions == slice(None) == columns:
            return self.loss.fisher_sqrt_blocks(at.outputs, at.targets)
        return self.loss.fisher_sqrt_part(at.outputs, at.targets, positions, columns)

    def apply(self, vectors: Tensor, at: Linearisation, where: slice | Tensor) -> Tensor:
        return self.loss.fisher_apply(vectors, at.outputs, at.targets)


class SampledFisherMetric(OutputMetric):
    """The same expectation over `draws` labels per example, the same draws at every product.

    Labels depend on the seed and the example's number only, not on how examples are batched.
    """

    name = "sampled_fisher"
    couples_positions = True

    def __init__(self, loss: Loss, draws: int, seed: int):
        super().__init__(loss)
        self.draws = draws
        self.seed = seed
        # Drawing costs far more than a product: done once for as long as a linearisation is kept.
        self._drawn: WeakKeyDictionary[Evaluated, Tensor] = WeakKeyDictionary()

    def count(self, at: Evaluated) -> int:
        return self.draws

    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        if at not in self._drawn:
            self._drawn[at] = self._draw(at, where)
        return self._drawn[at]

    def _draw(self, at: Evaluated, where: slice | Tensor) -> Tensor:
        numbers = np.arange(where.start, where.stop) if isinstance(where, slice) else where.cpu().numpy()
        outputs, targets = at.outputs, at.targets
        positions = self.loss.to_blocks(outputs, outputs, targets).shape[1]
        drawn = []
        for draw in range(self.draws):
            uniforms = placed_uniforms(self.seed, numbers, draw, positions)
            drawn.append(self._sample(outputs, targets, uniforms))
        return self.loss.from_blocks(torch.stack(drawn), outputs, targets) / self.draws**0.5

    def _sample(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        return self.loss.sample_gradients(outputs, targets, uniforms)


class SampledRootsMetric(SampledFisherMetric):
    """The loss's Hessian in the outputs as the expectation over `draws` random vectors per example: the same
    as drawn labels for a likelihood, and defined for other convex losses too."""

    name = "ggn"

    def _sample(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        return self.loss.sample_roots(outputs, targets, uniforms)


class EmpiricalFisherMetric(OutputMetric):
    """`S_i = ∇_f ℓ_i ∇_f ℓ_iᵀ` at the training label: the *empirical* Fisher, no approximation of the Hessian
    in general."""

    name = "empirical_fisher"
    couples_positions = True

    def count(self, at: Evaluated) -> int:
        return 1

    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        return at.output_gradient(self.loss)[None]


def _together(numbers: int, each: int) -> int:
    """Roots of `each` entries that make up a part of `numbers`."""
    return max(1, numbers // max(1, each))


def _size(values: Tensor) -> int:
    return values.numel() * values.element_size()
