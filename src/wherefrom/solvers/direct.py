"""What all factorisations share: an answer refined against the operator's own products."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.solvers.fixed_inverse import FixedInverse
from wherefrom.solvers.solution import Solution, solution_from

# Residual corrections after the factorisation: the operator may be float32, and the factors as well.
_REFINEMENTS = 3
# A residual of this many units of rounding cannot be improved.
_ROUNDING = 100
# A residual of this share of the right-hand side is no solution, whatever was factorised.
_FAILED = 1e-3


class Direct(FixedInverse):
    """A factorisation, refined against the operator's own products."""

    name = "Exact"

    def _residual(self, rhs: Float[Tensor, "p k"], x: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return rhs - self.operator.matmat(x)

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        x = self._apply_inverse(rhs)
        residual = self._residual(rhs, x)
        rounding = _ROUNDING * torch.finfo(rhs.dtype).eps * rhs.norm(dim=0)
        for _ in range(_REFINEMENTS):
            if bool((residual.norm(dim=0) <= rounding).all()):
                break
            better = x + self._apply_inverse(residual)
            left = self._residual(rhs, better)
            if not bool((left.norm(dim=0) < 0.5 * residual.norm(dim=0)).any()):
                break
            keep = left.norm(dim=0) < residual.norm(dim=0)
            x, residual = torch.where(keep, better, x), torch.where(keep, left, residual)
        k = rhs.shape[1]
        solved = residual.norm(dim=0) <= _FAILED * rhs.norm(dim=0)
        # Where only rounding is left, its estimate is not to be had from the residual.
        known = bool((residual.norm(dim=0) <= rounding).all())
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=solved.cpu(),
            reason="" if bool(solved.all()) else self._shortfall(residual, rhs),
            iterations=torch.zeros(k, dtype=torch.long),
            error_directions=rhs.new_zeros(0, *rhs.shape) if known else self._apply_inverse(residual)[None],
            residual=residual,
        )

    def _shortfall(self, residual: Float[Tensor, "p k"], rhs: Float[Tensor, "p k"]) -> str:
        worst = float((residual.norm(dim=0) / rhs.norm(dim=0)).nan_to_num(0.0).max())
        return (
            f"the residual of the factorisation is {worst:.1e} of the right-hand side, the rounding of "
            f"{self.operator.dtype} beside so small a damping: use dtype=torch.float64, or more damping"
        )
