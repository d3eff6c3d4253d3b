"""Output-space curvatures `S_i`: what stands in the middle of `(1/n) Σ J_iᵀ S_i J_i`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whence.curvature.uniforms import placed_uniforms
from whence.gradients import Evaluated, Linearisation
from whence.losses import Loss

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
    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        """`r` vectors per example whose outer products add up to `S_i`; `where` names the examples."""

    def apply(self, vectors: Tensor, at: Linearisation, where: slice | Tensor) -> Tensor:
        """`S_i v_i` for vectors of shape `(k, *outputs.shape)`."""
        roots = by_example(self.cotangents(at, where))
        inner = torch.einsum("rbo,kbo->krb", roots, by_example(vectors))
        return torch.einsum("krb,rbo->kbo", inner, roots).view_as(vectors)


class LossHessianMetric(OutputMetric):
    """`S_i = ∇²_f ℓ_i`: the generalised Gauss-Newton matrix (Schraudolph 2002)."""

    name = "ggn"

    def __init__(self, loss: Loss):
        super().__init__(loss)
        self.semidefinite = loss.convex
        # Blocks live as long as the linearisation they belong to, which may be kept between products.
        self._blocks: WeakKeyDictionary[Linearisation, Tensor] = WeakKeyDictionary()

    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        return _spread(self.loss, self.loss.hessian_sqrt_blocks(at.outputs, at.targets), at)

    def apply(self, vectors: Tensor, at: Linearisation, where: slice | Tensor) -> Tensor:
        blocks = self.loss.to_blocks(vectors, at.outputs, at.targets)
        k, c = blocks.shape[0], blocks.shape[-1]
        if c > _EXPLICIT_BLOCK or k < c // 2:
            return self.loss.hessian_apply(vectors, at.outputs, at.targets)
        if at not in self._blocks:
            self._blocks[at] = self.loss.hessian_blocks(at.outputs, at.targets)
        # One small product per example reads memory once; the closed form in `O(c)` passes over it several
        # times.
        product = torch.matmul(blocks.permute(1, 2, 0, 3), self._blocks[at]).permute(2, 0, 1, 3)
        return self.loss.from_blocks(product, at.outputs, at.targets)


class ExactFisherMetric(OutputMetric):
    """`S_i = E_{y~model}[∇_f ℓ ∇_f ℓᵀ]`, the expectation taken exactly over the model's labels."""

    name = "fisher"

    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        return _spread(self.loss, self.loss.fisher_sqrt_blocks(at.outputs, at.targets), at)


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
            drawn.append(self.loss.sample_gradients(outputs, targets, uniforms))
        return self.loss.from_blocks(torch.stack(drawn), outputs, targets) / self.draws**0.5


class EmpiricalFisherMetric(OutputMetric):
    """`S_i = ∇_f ℓ_i ∇_f ℓ_iᵀ` at the training label: the *empirical* Fisher, no approximation of the Hessian
    in general."""

    name = "empirical_fisher"
    couples_positions = True

    def cotangents(self, at: Evaluated, where: slice | Tensor) -> Float[Tensor, "r b *outputs"]:
        return at.output_gradient(self.loss)[None]


def _spread(loss: Loss, roots: Float[Tensor, "b s c r"], at: Evaluated) -> Float[Tensor, "rs b *outputs"]:
    """One cotangent per column and position: blocks of different positions do not mix."""
    b, s, c, r = roots.shape
    if s == 1:
        blocks = roots.permute(3, 0, 1, 2)
    else:
        blocks = torch.zeros(s, r, b, s, c, dtype=roots.dtype, device=roots.device)
        diagonal = torch.arange(s, device=roots.device)
        blocks[diagonal, :, :, diagonal] = roots.permute(1, 3, 0, 2)
        blocks = blocks.view(s * r, b, s, c)
    return loss.from_blocks(blocks, at.outputs, at.targets)
