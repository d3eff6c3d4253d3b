"""Solvers whose answer is one fixed linear map of the right-hand side, which preconditions as well."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.linalg import LinearOperator
from wherefrom.solvers.base import PreparedSolver
from wherefrom.solvers.preconditioner import InverseOperator
from wherefrom.solvers.solution import Solution, solution_from


class FixedInverse(PreparedSolver):
    """`M⁻¹ ≈ C_λ⁻¹`, prepared once."""

    @abstractmethod
    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """`M⁻¹` of the columns."""

    def as_preconditioner(self) -> LinearOperator:
        return InverseOperator(self._apply_inverse, self.operator)


class OneApplication(FixedInverse):
    """The answer is `M⁻¹ v` as it stands; its error is estimated from the residual."""

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        k = rhs.shape[1]
        x = self._apply_inverse(rhs)
        residual = rhs - self.operator.matmat(x)
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=torch.ones(k, dtype=torch.bool),
            reason="",
            iterations=torch.ones(k, dtype=torch.long),
            error_directions=self._at_least(x, rhs - residual, residual)[None],
            residual=residual,
        )

    def _at_least(
        self, x: Float[Tensor, "p k"], image: Float[Tensor, "p k"], residual: Float[Tensor, "p k"]
    ) -> Float[Tensor, "p k"]:
        """The error; `x` itself where it is larger than what was found of that and its `image` `C_λx` is no
        answer: a residual above the right-hand side, so that 0 would be nearer in that norm."""
        found = self._error(residual)
        energy = (found * residual).double().sum(0)
        overshot = residual.norm(dim=0) > (image + residual).norm(dim=0)
        return torch.where(overshot & ((x * image).double().sum(0) > energy), x, found)

    def _error(self, residual: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """Per column, the multiple of `M⁻¹ r` closest to `C_λ⁻¹ r` in the energy norm: of the right size even
        where `M⁻¹` over- or understates. Cost: one product."""
        direction = self._apply_inverse(residual)
        energy = (direction * self.operator.matmat(direction)).double().sum(0)
        gain = (residual * direction).double().sum(0) / energy
        return direction * torch.where(energy > 0, gain, torch.zeros_like(gain)).to(direction.dtype)
