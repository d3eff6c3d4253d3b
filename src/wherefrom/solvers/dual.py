"""Factorisation in the dual space: a row for every example and root of its output curvature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.linalg import FactoredOperator, InPlaceCholesky, LinearOperator, split_diagonal
from wherefrom.memory import memory_errors
from wherefrom.solvers.cost import dual_precision
from wherefrom.solvers.direct import Direct
from wherefrom.solvers.repair import round_up

# A factorisation in float32 of a matrix with this condition number gains two digits per residual correction.
_SINGLE_CONDITION = 1e5
_POWER_STEPS = 12
# An eigenvalue above this share of the largest is far above the rounding of float64.
_RESOLVED = 1e-10


def dual_form(operator: LinearOperator) -> tuple[FactoredOperator | None, Float[Tensor, " p"]]:
    """`(F, D)` if `operator = D + FFᵀ/n` with `D > 0` diagonal and `FFᵀ` semi-definite; `(None, D)`
    otherwise."""
    diagonal = split_diagonal(operator)[1]
    return (dual_factor(operator) if bool((diagonal > 0).all()) else None), diagonal


def dual_factor(operator: LinearOperator) -> FactoredOperator | None:
    """`F` if `operator = D + FFᵀ/n` with `FFᵀ` semi-definite and any diagonal `D`."""
    rest = split_diagonal(operator)[0]
    factor = rest[0] if len(rest) == 1 and isinstance(rest[0], FactoredOperator) else None
    if factor is None or not factor.fixed_rank or factor.lower_bound < 0:
        return None
    return factor


class PreparedDual(Direct):
    """`(D + FFᵀ/n)⁻¹ = D⁻¹ − D⁻¹F (nI + FᵀD⁻¹F)⁻¹ FᵀD⁻¹`."""

    def __init__(self, operator: LinearOperator, factor: FactoredOperator, diagonal: Float[Tensor, " p"]):
        super().__init__(operator, max(operator.lower_bound, float(diagonal.min())), True)
        self._operator_factor = factor
        self._diagonal = diagonal
        found: InPlaceCholesky | None = None
        with memory_errors(
            "factorising the Gram matrix of the dual space",
            "Use solver=EKFAC() or CG(), or fewer training examples.",
        ):
            for dtype in dict.fromkeys((dual_precision(factor), torch.float64)):
                found = self._factorise(dtype)
                if found is not None:
                    break
        if found is None:
            assert factor.n_examples is not None
            smallest = float(diagonal.min())
            repair = round_up(_RESOLVED * smallest * self._trace / factor.n_examples)
            raise NotPositiveDefiniteError(
                f"damping: damping and weight decay of {smallest:.3g} are lost in rounding beside the "
                f"curvature, also in float64. Use damping='auto', or at least damping={repair:.2g}.",
                eigenvalue=smallest,
                damping=repair,
            )
        self._factor = found
        self.notes = {
            "space": "dual",
            "method": "cholesky",
            "size": factor.rank,
            "precision": str(dtype).removeprefix("torch."),
        }

    def _factorise(self, dtype: torch.dtype) -> InPlaceCholesky | None:
        """`nI + FᵀD⁻¹F`, or `None` where `dtype` is too coarse for it."""
        factor = self._operator_factor
        assert factor.n_examples is not None
        gram = factor.factor_gram(1 / self._diagonal, dtype)
        gram.diagonal().add_(factor.n_examples)
        self._trace = float(gram.diagonal().double().sum())
        if dtype == torch.float32 and _condition(gram, factor.n_examples) > _SINGLE_CONDITION:
            return None
        made = InPlaceCholesky(gram)
        return made if made.positive_definite else None

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        scaled = rhs / self._diagonal[:, None]
        inner = self._factor.solve(self._operator_factor.factor_adjoint(scaled))
        return scaled - self._operator_factor.factor_apply(inner) / self._diagonal[:, None]


def _condition(matrix: Float[Tensor, "m m"], smallest: int) -> float:
    """Condition number of a symmetric matrix without eigenvalues below `smallest`: bounded by its trace, or
    estimated by power iteration where that bound is no use."""
    m = matrix.shape[0]
    bound = float(matrix.diagonal().double().sum()) - (m - 1) * smallest
    if bound <= _SINGLE_CONDITION * smallest:
        return bound / smallest
    vector = torch.randn(m, generator=torch.Generator().manual_seed(0)).to(matrix)
    for _ in range(_POWER_STEPS):
        vector = matrix @ (vector / vector.norm())
    return float(vector.norm()) / smallest
