"""What a solver answers: solutions of `C_λ x = v` for several columns, and what is known of their errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.linalg import LinearOperator


@dataclass(frozen=True)
class Solution:
    """`x ≈ C_λ⁻¹ v` for `k` columns, and what is known of the error.

    Attributes:
        x: `(p, k)`.
        converged: per column, whether the solver reached what it was asked for.
        reason: why it stopped, in words, for the columns that did not converge (empty when all did).
        iterations: per column.
        residual_norm: `‖v − C_λ x‖`, recomputed with the full operator after the last iteration.
        rhs_norm: `‖v‖`.
        error_directions: `(r, p, k)`: the error of `uᵀx` is estimated by the norm over `r` of `E_rᵀ u`;
            `r = 0` when nothing but rounding is left.
        rhs_shaken: rounding moved `v` itself by about `eps` times this; `None` where that is not known.
        overlap: typical `‖x ∘ g‖ / (‖x‖ ‖g‖)` of the gradients that meet `x`; `None` for `1/√p`, that of
            vectors without structure.
        error_known: whether the error directions say anything of the error.
    """

    x: Float[Tensor, "p k"]
    converged: Bool[Tensor, " k"]
    reason: str
    iterations: Int[Tensor, " k"]
    residual_norm: Float[Tensor, " k"]
    rhs_norm: Float[Tensor, " k"]
    error_directions: Float[Tensor, "r p k"]
    rhs_shaken: Float[Tensor, " k"] | None = None
    overlap: Float[Tensor, " k"] | None = None
    error_known: bool = True

    @property
    def relative_residual(self) -> Float[Tensor, " k"]:
        """`‖v − C_λ x‖ / ‖v‖` (0 for `v = 0`)."""
        return torch.where(
            self.rhs_norm > 0, self.residual_norm / self.rhs_norm, torch.zeros_like(self.rhs_norm)
        )

    @property
    def columns(self) -> Float[Tensor, "p m"]:
        """`x` and the error directions beside it, `(p, (1 + r) k)`: `errors_of` reads products with these."""
        r, p, k = self.error_directions.shape
        return torch.cat([self.x, self.error_directions.permute(1, 0, 2).reshape(p, r * k)], dim=1)

    def errors_of(self, products: Float[Tensor, "b m"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """`uᵀx` and its error as far as the directions say, from the products of some `u` with `columns`."""
        r, _, k = self.error_directions.shape
        return products[:, :k], products[:, k:].reshape(len(products), r, k).norm(dim=1)


def solution_from(
    operator: LinearOperator,
    rhs: Float[Tensor, "p k"],
    x: Float[Tensor, "p k"],
    *,
    converged: Bool[Tensor, " k"] | None = None,
    reason: str = "",
    iterations: Int[Tensor, " k"] | None = None,
    error_directions: Float[Tensor, "r p k"] | None = None,
    residual: Float[Tensor, "p k"] | None = None,
) -> Solution:
    """A `Solution` whose residual is recomputed with `operator` unless the caller has just done so. What is
    not given is that of a direct solver: converged, without iterations, nothing but rounding left."""
    if residual is None:
        residual = rhs - operator.matmat(x)
    if converged is None:
        converged = torch.ones(rhs.shape[1], dtype=torch.bool)
    if iterations is None:
        iterations = torch.zeros(rhs.shape[1], dtype=torch.long)
    if error_directions is None:
        error_directions = rhs.new_zeros(0, *rhs.shape)
    return Solution(x, converged, reason, iterations, residual.norm(dim=0), rhs.norm(dim=0), error_directions)
