"""Preconditioned conjugate gradients on many small systems at once (Hestenes & Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def batched_cg(
    product: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs: Float[Tensor, "B c d"],
    start: Float[Tensor, "B c d"] | None = None,
    *,
    rtol: float,
    max_iterations: int = 200,
) -> tuple[Float[Tensor, "B c d"], Bool[Tensor, " B"]]:
    """`B` systems with a symmetric positive definite matrix each, in step: solutions, and which converged.

    The solvers' block CG has one matrix for all columns; here every right-hand side has its own, of the shape
    of a linear layer's weights. A direction without curvature ends its system.

    Args:
        product: `(B, c, d) -> (B, c, d)`, system by system.
        precondition: an approximate inverse, symmetric and positive definite.
        rhs: right-hand sides.
        start: where the iteration begins; zero if not given.
        rtol: residual relative to the right-hand side.
        max_iterations: products at most.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2))

    x = torch.zeros_like(rhs) if start is None else start.clone()
    residual = rhs.clone() if start is None else rhs - product(x)
    target = rtol * rhs.flatten(1).norm(dim=1)
    direction, rho = torch.zeros_like(rhs), rhs.new_ones(len(rhs))
    done = residual.flatten(1).norm(dim=1) <= target
    for iteration in range(max_iterations):
        if bool(done.all()):
            break
        preconditioned = precondition(residual)
        new = dot(residual, preconditioned)
        ratio = new / rho if iteration else torch.zeros_like(new)
        direction = preconditioned + ratio[:, None, None] * direction
        image = product(direction)
        energy = dot(direction, image)
        # A direction of no curvature (a shift of all classes without weight decay) cannot be followed.
        usable = ~done & (energy > 0)
        step = torch.where(usable, new / torch.where(usable, energy, 1.0), 0.0)[:, None, None]
        x = x + step * direction
        residual = residual - step * image
        rho = torch.where(new > 0, new, 1.0)
        done = done | (residual.flatten(1).norm(dim=1) <= target) | ~usable
    return x, residual.flatten(1).norm(dim=1) <= target
