"""The curvature in a random subspace: `k × k` whatever the number of parameters."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature import GaussNewtonOperator
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients.projections import BoundProjection, Projection
from wherefrom.linalg import FactoredOperator, LinearOperator, split_diagonal
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.floor import lacking
from wherefrom.solvers.solution import Solution, solution_from

# Redrawn projections: error directions of the spread, and draws that the bias is averaged over.
_DRAWS = 4
_BIAS_DRAWS = 16
# Columns of Pᵀ that go through the factor together.
_COLUMNS = 64
# Rows added to a Gram matrix at once, in float64.
_GRAM_ROWS = 4096
# Projected columns of the factor may take this share of the memory budget.
_MEMORY_SHARE = 0.5
# Where more of the k components than this are taken up by the curvature, its directions no longer fit.
_SATURATED = 1 / 3


class Projected(Solver):
    """`C_λ⁻¹ ≈ D^-½ Pᵀ (P C' Pᵀ + I)⁻¹ P D^-½` for `C_λ = D + FFᵀ/n` with `C' = D^-½ FFᵀ D^-½ / n`; with a
    constant diagonal `λ`, `Pᵀ (P F Fᵀ Pᵀ/n + λI)⁻¹ P`.

    `E[PᵀP] = I`, so that the projection keeps inner products of gradients, and with them the scores, up to
    `√(1/k)`; it does not keep vectors: `x` itself is far from the solution, as `PᵀP v` is far from `v`, and
    so is its residual, which bounds the error but says little. What is estimated instead is how the scores
    would change with another seed, in spread and in the mean, by redrawing the components' weights
    (infinitesimal jackknife). It needs more components than the curvature has directions above `λ`; where
    they fill up, the result is reported as not converged.

    Args:
        projection: e.g. `Rademacher(4096)`; `LoGra` needs a model's curvature, for the layers' shapes.

    Cost: `k` products with `Fᵀ` and `m k²` operations once, for `m` columns of `F` (examples × outputs); then
    a projection, six of its adjoint and one product with `C_λ`, for the residual, per column. Memory: `m k`
    numbers while preparing, `8k²` bytes after.

    Raises:
        InputError: `projection` is none.

    Source: Park et al. 2023 (TRAK), §3; Choe et al. 2024 (LoGra), §3.
    """

    name = "projected"

    def __init__(self, projection: Projection):
        if not isinstance(projection, Projection):
            raise InputError(
                f"projection={projection!r}: expected a Projection such as Rademacher(4096), Gaussian(4096), "
                "SparseJL(4096) or LoGra(64, 64)"
            )
        self.projection = projection

    def settings(self) -> dict[str, Any]:
        return {"solver": self.name, **self.projection.settings()}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        rest, diagonal = split_diagonal(operator)
        factor = rest[0] if len(rest) == 1 else None
        if not isinstance(factor, FactoredOperator) or factor.lower_bound < 0 or bool((diagonal <= 0).any()):
            raise UnsupportedError(
                "solver Projected needs C = diagonal + FFᵀ/n with a positive diagonal: a GGN or Fisher with "
                f"damping or weight decay on every parameter; found {lacking(operator)}. Use curvature='ggn' "
                "with damping > 0, or CG()."
            )
        shapes = (
            factor.engine.objective.parameters if isinstance(factor, GaussNewtonOperator) else factor.size
        )
        return _PreparedProjected(operator, factor, diagonal, self.projection.bind(shapes), seed)


class _PreparedProjected(PreparedSolver):
    name = "Projected"

    def __init__(
        self,
        operator: LinearOperator,
        factor: FactoredOperator,
        diagonal: Float[Tensor, " p"],
        projection: BoundProjection,
        seed: int,
    ):
        super().__init__(operator, max(operator.lower_bound, float(diagonal.min())), True)
        self._projection = projection
        self._scale = diagonal.rsqrt()
        k = projection.k
        with memory_errors(
            "forming the projected curvature", "Project to fewer dimensions, or use solver=CG()."
        ):
            matrix = self._projected_curvature(factor)
            matrix.diagonal().add_(1.0)
            self._factor = torch.linalg.cholesky(matrix)
            unit = torch.eye(k, dtype=torch.float64, device=operator.device)
            half = torch.linalg.solve_triangular(self._factor, unit, upper=False)
        # tr(C'(C' + I)⁻¹) in the projected space: how many components the curvature takes up.
        self._taken = k - float(half.square().sum())
        self._draws = projection.resampled(_BIAS_DRAWS, seed).to(operator.device)
        self._lossless = not bool(self._draws.any())
        self.notes = {
            "p": projection.p,
            "k": k,
            "effective_dimension": self._taken,
            "lossless": self._lossless,
        }

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        inner = self._solved(self._projection.apply(self._scale * rhs.T).double().T)
        x = self._lifted(inner).to(rhs.dtype)
        residual = rhs - self.operator.matmat(x)
        count = rhs.shape[1]
        if self._lossless:
            correction = self._solved(self._projection.apply(self._scale * residual.T).double().T)
            directions = self._lifted(correction)[None]
        else:
            changes = self._changes(inner)
            directions = self._lifted(changes).reshape(len(rhs), -1, count).transpose(0, 1)
        saturated = not self._lossless and self._taken > _SATURATED * self._projection.k
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=torch.full((count,), not saturated),
            reason=self._reason() if saturated else "",
            iterations=torch.zeros(count, dtype=torch.long),
            error_directions=directions,
            residual=residual,
        )

    def _changes(self, inner: Float[Tensor, "components k"]) -> Float[Tensor, "components rk"]:
        """What other seeds would change in the projected solution `z`, to second order in the weights `Δ`:
        with `B = (P C' Pᵀ + I)⁻¹` it is `BΔz − BΔ(I − B)Δz`. The first term has no mean, the second has."""
        first, second = [], torch.zeros_like(inner)
        for number, weights in enumerate(self._draws):
            moved = weights[:, None] * inner
            if number < _DRAWS:
                first.append(moved / _DRAWS**0.5)
            second -= weights[:, None] * (moved - self._solved(moved)) / _BIAS_DRAWS
        return self._solved(torch.cat([*first, second], dim=1))

    def _solved(self, columns: Float[Tensor, "components k"]) -> Float[Tensor, "components k"]:
        return torch.cholesky_solve(columns, self._factor)

    def _lifted(self, columns: Float[Tensor, "components k"]) -> Float[Tensor, "p k"]:
        """`D^-½ Pᵀ` of columns."""
        return (self._projection.adjoint(columns.T.to(self._scale.dtype)) * self._scale).T

    def _projected_curvature(self, factor: FactoredOperator) -> Float[Tensor, "components components"]:
        """`P C' Pᵀ = (Fᵀ D^-½ Pᵀ)ᵀ (Fᵀ D^-½ Pᵀ) / n`, a few rows of `P` at a time."""
        k, device = self._projection.k, self._scale.device
        if isinstance(factor, GaussNewtonOperator):
            memory = factor.engine.objective.memory
            if factor.rank * k * self._scale.element_size() > _MEMORY_SHARE * memory:
                return self._by_products(factor)
        width = min(_COLUMNS, factor.engine.columns) if isinstance(factor, GaussNewtonOperator) else _COLUMNS
        roots = []
        with progress_bar("projecting the curvature", k) as bar:
            for start in range(0, k, width):
                count = min(width, k - start)
                units = torch.zeros(count, k, dtype=self._scale.dtype, device=device)
                units[torch.arange(count), torch.arange(start, start + count)] = 1
                roots.append(factor.factor_adjoint((self._projection.adjoint(units) * self._scale).T))
                bar.advance(count)
        stacked = torch.cat(roots, dim=1)
        roots.clear()
        matrix = torch.zeros(k, k, dtype=torch.float64, device=device)
        for part in stacked.split(_GRAM_ROWS):
            wide = part.double()
            matrix.addmm_(wide.T, wide)
        assert factor.n_examples is not None
        return matrix / factor.n_examples

    def _by_products(self, factor: FactoredOperator) -> Float[Tensor, "components components"]:
        """The same from products with `FFᵀ/n`, which hold nothing of the size of `F`: twice the time."""
        k = self._projection.k
        matrix = torch.empty(k, k, dtype=torch.float64, device=self._scale.device)
        with progress_bar("projecting the curvature", k) as bar:
            for start in range(0, k, _COLUMNS):
                chosen = torch.arange(start, min(start + _COLUMNS, k))
                units = torch.zeros(len(chosen), k, dtype=self._scale.dtype, device=self._scale.device)
                units[torch.arange(len(chosen)), chosen] = 1
                image = factor.matmat((self._projection.adjoint(units) * self._scale).T)
                matrix[chosen] = self._projection.apply(image.T * self._scale).double()
                bar.advance(len(chosen))
        return (matrix + matrix.T) / 2

    def _reason(self) -> str:
        k = self._projection.k
        return (
            f"the curvature fills {self._taken:.0f} of the {k:,} components of the projection, so its "
            "directions above the damping do not fit well and the error is more than estimated: project to "
            f"more, k={4 * k:,} say, or add damping"
        )
