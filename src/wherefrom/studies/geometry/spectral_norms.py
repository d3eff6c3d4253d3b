"""Largest singular values of the Jacobians of a batch of examples, by Krylov iteration on kept graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge

from wherefrom.studies.geometry.evaluation import graphs

# With this probability at most one of the norms is off by more than the error stated with it.
FAILURE = 1e-6


@dataclass(frozen=True)
class SpectralNorms:
    """Estimates from below of `‖A_i‖₂`, one per example.

    Attributes:
        values: in float64.
        residuals: `‖A_iᵀA_i v − σ²v‖/σ²` of the estimate: `σ²` lies within this relative distance of a
            squared singular value, usually and not provably the largest.
        error: relative error of the squares that, by the random start, none of these exceeds but with
            probability `FAILURE`: `‖A_i‖₂² (1 − error) ≤ values²`. Zero where the iteration is exhaustive.
        products: with `A` and with `Aᵀ`, each for all examples at once.
    """

    values: Float[Tensor, " b"]
    residuals: Float[Tensor, " b"]
    error: float
    products: int


class BatchJacobian:
    """`∂y_i/∂x_i` of every example at once, as products; examples must not touch one another.

    Args:
        outputs: `y`, a tensor or the gradient edge of one, of a graph that stays.
        shape: of `y`, the examples first.
        inputs: `x`, a leaf or a tensor upstream.
    """

    def __init__(self, outputs: Tensor | GradientEdge, shape: tuple[int, ...], inputs: Tensor):
        self.batch = shape[0]
        self._shape, self._outputs, self._inputs = shape, outputs, inputs
        self.rows = math.prod(shape[1:])
        self.columns = inputs[0].numel()
        with graphs():
            self._probe = inputs.new_zeros(shape, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                outputs, inputs, self._probe, create_graph=True, materialize_grads=True
            )

    def pull(self, cotangents: Float[Tensor, "b m"]) -> Float[Tensor, "b d"]:
        """`A_iᵀ u_i`."""
        with graphs():
            (made,) = torch.autograd.grad(
                self._outputs,
                self._inputs,
                cotangents.reshape(self._shape),
                retain_graph=True,
                materialize_grads=True,
            )
        return made.reshape(self.batch, -1)

    def push(self, tangents: Float[Tensor, "b d"]) -> Float[Tensor, "b m"]:
        """`A_i v_i`, the derivative of `A_iᵀu_i` in `u`."""
        if not self._pulled.requires_grad:  # y does not depend on x
            return tangents.new_zeros(self.batch, self.rows)
        with graphs():
            (made,) = torch.autograd.grad(
                self._pulled,
                self._probe,
                tangents.reshape(self._inputs.shape),
                retain_graph=True,
                materialize_grads=True,
            )
        return made.reshape(self.batch, -1)

    def gram(self, vectors: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """`A Aᵀ` or `Aᵀ A`, the smaller one."""
        return self.push(self.pull(vectors)) if self.rows <= self.columns else self.pull(self.push(vectors))


def largest_singular_values(
    jacobian: BatchJacobian, *, iterations: int, generator: torch.Generator, share: int = 1
) -> SpectralNorms:
    """`‖A_i‖₂` by Lanczos iteration from a random start, all basis vectors kept orthogonal.

    After `k` steps in dimension `s` the Ritz value falls short of the largest eigenvalue by more than the
    share `ε` with probability at most `1.648 √s exp(−√ε (2k − 1))` (Kuczyński & Woźniakowski 1992, Theorem
    4.1), whatever the gaps of the spectrum; `k = s` steps are exhaustive. Memory: `b · k · s` numbers.

    Args:
        jacobian: of the batch.
        iterations: steps `k`.
        generator: on the CPU, of the start.
        share: in how many norms in all the probability of failure is divided, at least those of the batch.
    """
    batch, size = jacobian.batch, min(jacobian.rows, jacobian.columns)
    steps = min(iterations, size)
    start = torch.randn(batch, size, generator=generator, dtype=torch.float64).to(jacobian._inputs)
    vector = start / start.norm(dim=1, keepdim=True)
    basis: list[Tensor] = []
    diagonal, beside = [], []
    least = torch.finfo(vector.dtype).tiny
    tiny = size**0.5 * 10 * torch.finfo(vector.dtype).eps
    live = torch.ones(batch, dtype=torch.bool, device=vector.device)
    scale = vector.new_zeros(batch)
    for _ in range(steps):
        basis.append(vector)
        made = jacobian.gram(vector)
        diagonal.append((made * vector).sum(1))
        spanned = torch.stack(basis, dim=1)
        for _ in range(2):  # once leaves rounding of the size of what was removed
            made = made - torch.einsum("bks,bk->bs", spanned, torch.einsum("bks,bs->bk", spanned, made))
        length = made.norm(dim=1)
        scale = torch.maximum(scale, diagonal[-1].abs() + length)
        live = live & (length > tiny * scale)  # else the space is invariant: it holds all the start reaches
        beside.append(torch.where(live, length, 0.0))
        vector = torch.where(live[:, None], made / length.clamp(min=least)[:, None], 0.0)
        if not bool(live.any()):
            break
    tridiagonal = _tridiagonal(diagonal, beside[:-1])
    values, vectors = torch.linalg.eigh(tridiagonal)
    top = values[:, -1].clamp(min=0.0)
    off = beside[-1].double() * vectors[:, -1, -1].abs()
    residuals = torch.where(top > 0, off / top.clamp(min=1e-300), 0.0)
    exhausted = len(basis) == size or not bool(live.any())
    error = 0.0 if exhausted else _error(size, len(basis), max(share, batch))
    return SpectralNorms(top.sqrt().cpu(), residuals.cpu(), error, 2 * len(basis))


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Float[Tensor, "b k k"]:
    made = torch.diag_embed(torch.stack(diagonal, dim=1).double())
    if beside:
        off = torch.stack(beside, dim=1).double()
        made = made + torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    return made


def _error(size: int, steps: int, share: int) -> float:
    """The share that the Ritz value falls short by with probability at most `FAILURE / share`; at most 1."""
    exponent = math.log(1.648 * size**0.5 * share / FAILURE)
    return min(1.0, (exponent / (2 * steps - 1)) ** 2)
