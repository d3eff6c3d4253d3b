"""A block of queries that were solved for together."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from wherefrom.solvers import Solution


@dataclass(frozen=True)
class SolvedBlock:
    """Query gradients and their solutions for a block of queries."""

    where: slice
    gradients: Float[Tensor, "p k"]
    solution: Solution
