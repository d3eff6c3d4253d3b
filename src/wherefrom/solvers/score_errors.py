"""What a score may be off by: a bound from the residual, and what rounding leaves."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients import GradientSizes
from wherefrom.gradients.rounding import MARGIN
from wherefrom.solvers.solution import Solution

# Outputs are not all rounded the way that moves a gradient most: what their errors leave in a score, as a
# share of that.
_TYPICAL = 0.15
_COLUMNS = 64
# A relative error that leaves no digit.
_EVERYTHING = 1e30


def score_bound(
    solution: Solution,
    gradients: GradientSizes | Float[Tensor, " b"],
    *,
    floor: float,
    largest: float,
) -> Float[Tensor, "k b"]:
    """`|score error| ≤ ‖r‖ ‖g‖ / λ_min`, plus an allowance for rounding in the operator, the gradients and
    the dot product.

    From `x − x* = −C_λ⁻¹ r`, so `|gᵀ(x − x*)| ≤ ‖g‖ ‖r‖ / λ_min(C_λ)`. Rounded outputs move a gradient by
    `‖JᵀS δf‖`, which may be more than any share of its norm: `δv` of the right-hand side adds to the
    residual, `δg` meets `x`.

    Args:
        gradients: sizes of the `g`; norms alone where rounding of the outputs is in them.
        floor: a lower bound of `λ_min(C_λ)`; the bound is infinite where it is not positive.
        largest: `λ_max(C_λ)`.
    """
    sizes, eps = _sizes(gradients), _eps(solution)
    gamma = eps * (32 + math.sqrt(solution.x.shape[0]))
    x = torch.linalg.vector_norm(solution.x, dim=0, dtype=torch.float64)
    residual = solution.residual_norm.double() + gamma * (solution.rhs_norm.double() + largest * x)
    if solution.rhs_shaken is not None:
        residual = residual + MARGIN * eps * solution.rhs_shaken
    if not floor > 0:
        return torch.full((len(x), len(sizes.norm)), math.inf, dtype=torch.float64, device=x.device)
    per_gradient = residual / floor + gamma * x
    of_each = torch.stack([per_gradient, MARGIN * eps * (per_gradient + x)], dim=1)
    bound = of_each @ torch.stack([sizes.norm, sizes.shaken])
    # A score smaller than the smallest number of its dtype is stored as 0.
    return bound.clamp(min=torch.finfo(solution.x.dtype).tiny)


def rounding_estimate(
    solution: Solution,
    gradients: GradientSizes | Float[Tensor, " b"],
    scores: Float[Tensor, "k b"] | None,
    *,
    units: float,
) -> Float[Tensor, "k b"]:
    """What rounding alone leaves in a score: independent errors of a few units in all entries of `x` and `g`
    add up to so many times `eps ‖x ∘ g‖`, which is `‖x‖ ‖g‖ / √p` for vectors without structure; a gradient
    whose outputs are rounded moves by a share of itself, and so does the score.

    Args:
        gradients: as for `score_bound`.
        scores: the scores themselves, where `gradients` are of single examples.
    """
    sizes, dtype, eps = _sizes(gradients), solution.x.dtype, _eps(solution)
    x = torch.linalg.vector_norm(solution.x, dim=0, dtype=torch.float64)
    if solution.overlap is None:
        overlap = torch.full_like(x, 1 / math.sqrt(solution.x.shape[0]))
    else:
        overlap = solution.overlap.double()
    made = ((units * eps * overlap * x).square()[:, None]) * sizes.norm.square()[None]
    if scores is not None:
        shares = sizes.relative.square()[None]
        if solution.rhs_shaken is not None:
            of_rhs = solution.rhs_shaken / solution.rhs_norm.double().clamp(min=1e-300)
            shares = shares + of_rhs.clamp(max=_EVERYTHING).square()[:, None]
        made += (_TYPICAL * eps * scores.double()).square() * shares
    return made.sqrt_().to(dtype)


def overlap_with(x: Float[Tensor, "p k"], sample: Float[Tensor, "m p"]) -> Float[Tensor, " k"]:
    """Root mean square of `‖x ∘ g‖ / (‖x‖ ‖g‖)` over a sample of gradients: where a few large entries of `x`
    meet small ones of the gradients, as with inputs of another size than 1 beside a bias, it is far below
    `1/√p`."""
    sizes = torch.linalg.vector_norm(sample, dim=1, dtype=torch.float64)
    kept = sizes > 0
    if not bool(kept.any()):
        return torch.full_like(x[0], 1 / math.sqrt(len(x)))
    unit = (sample[kept] / sizes[kept].to(sample)[:, None]).square()
    parts = []
    for columns in x.split(_COLUMNS, dim=1):
        norms = torch.linalg.vector_norm(columns, dim=0, dtype=torch.float64).clamp(min=1e-300)
        parts.append((unit @ (columns / norms.to(x)).nan_to_num(0.0, 0.0, 0.0).square()).mean(0).sqrt())
    return torch.cat(parts)


def _sizes(gradients: GradientSizes | Float[Tensor, " b"]) -> GradientSizes:
    if isinstance(gradients, GradientSizes):
        return gradients
    norm = gradients.double()
    return GradientSizes(norm, torch.zeros_like(norm))


def _eps(solution: Solution) -> float:
    return torch.finfo(solution.x.dtype).eps
