"""Is an exact curvature positive definite, and by how much? Proved by weight decay, by a factorisation, or
measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.linalg import LinearOperator, Spectrum, extreme_eigenpairs
from wherefrom.solvers.base import PreparedSolver, Solver

# Products with C that the search for its smallest eigenvalue may spend.
_MOST_PRODUCTS = 200
# A Ritz value counts as the smallest eigenvalue once its residual is below this share of it.
_SETTLED = 0.25


@dataclass(frozen=True)
class Floor:
    """What the eigenvalues of `C` are not below.

    Attributes:
        value: above 0.
        words: where it is known from: "at least …, by …".
        guarded: whether the solver in use wants some damping on the parameters without weight decay.
        prepared: the solver, prepared for `C`, where preparing it was how this became known.
    """

    value: float
    words: str
    guarded: bool = False
    prepared: PreparedSolver | None = None


def measure_floor(
    operator: LinearOperator,
    solver: Solver | None,
    spectrum: Spectrum,
    *,
    condition: float,
    affine: bool,
    seed: int,
) -> Floor | None:
    """The floor of the eigenvalues of `C`, or `None` where `C` is not known to be positive definite.

    Args:
        operator: `C` without damping.
        solver: in use; only one that can do without damping profits from a positive definite `C` that weight
            decay does not prove.
        spectrum: of a Lanczos run on `C`.
        condition: an eigenvalue that is smaller than the largest by this factor counts as zero, where it is
            only measured.
        affine: whether outputs are affine in the parameters: products with `C` then cost little, and its
            smallest eigenvalue may be searched for.
        seed: of that search.
    """
    if operator.lower_bound > 0:
        return Floor(operator.lower_bound, f"at least {operator.lower_bound:.3g} by the weight decay")
    way = None if solver is None else solver.without_damping(operator)
    if solver is None or way is None or spectrum.smallest <= 0:
        return None
    least = spectrum.largest_upper / condition
    if way == "factorises":
        prepared = _prepared(operator, solver, seed)
        if prepared is None or prepared.lower_bound < least:
            return None
        return Floor(
            prepared.lower_bound, f"at least {prepared.lower_bound:.3g}, as measured", prepared=prepared
        )
    if not affine or operator.size <= 2:
        return None
    found = extreme_eigenpairs(operator, 1, which="smallest", max_products=_MOST_PRODUCTS, seed=seed)
    value, residual = float(found.values[0]), float(found.residuals[0])
    if not residual <= _SETTLED * value or value - residual < max(least, _noise(operator, spectrum)):
        return None
    return Floor(value - residual, f"about {value:.3g}, as measured", guarded=way == "guarded")


def _prepared(operator: LinearOperator, solver: Solver, seed: int) -> PreparedSolver | None:
    try:
        return solver.prepare(operator, seed=seed)
    except NotPositiveDefiniteError:
        return None


def _noise(operator: LinearOperator, spectrum: Spectrum) -> float:
    """What rounding in products with `C` can make of an eigenvalue 0."""
    return 10 * torch.finfo(operator.dtype).eps * spectrum.largest_upper
