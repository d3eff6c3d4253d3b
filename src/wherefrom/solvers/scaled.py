"""Right-hand sides whose squares would leave the range of their dtype, solved for at unit size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.solvers.solution import Solution

# Norms between these need no help.
_SMALL, _LARGE = 1e-8, 1e8


def solve_scaled(solve: Callable[[Float[Tensor, "p k"]], Solution], rhs: Float[Tensor, "p k"]) -> Solution:
    """`solve(rhs)`, for very small and very large columns of a multiple by a power of two, undone in
    the solution: no digit changes, and no square under- or overflows."""
    norms = torch.linalg.vector_norm(rhs, dim=0, dtype=torch.float64)
    extreme = (norms > 0) & ((norms < _SMALL) | (norms > _LARGE))
    if not bool(extreme.any()):
        return solve(rhs)
    exponent = torch.where(extreme, norms.clamp(min=1e-300).log2().round(), torch.zeros_like(norms))
    # In two factors: the whole power may not be a number of the dtype.
    half = (exponent / 2).trunc()
    first, second = (torch.exp2(part).to(rhs.dtype) for part in (half, exponent - half))
    solution = solve(rhs / first / second)
    return replace(
        solution,
        x=solution.x * first * second,
        residual_norm=solution.residual_norm * first * second,
        rhs_norm=solution.rhs_norm * first * second,
        error_directions=solution.error_directions * first * second,
    )
