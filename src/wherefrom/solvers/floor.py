"""What a solver without a factorisation knows of the smallest eigenvalue of `C_λ`."""

from __future__ import annotations

from wherefrom.linalg import FactoredOperator, LinearOperator, lanczos_spectrum, split_diagonal
from wherefrom.solvers.repair import measured


def eigenvalue_floor(operator: LinearOperator, seed: int) -> tuple[float, bool]:
    """A lower bound of the eigenvalues, and whether it is proven; otherwise a cautious Ritz value.

    Raises:
        NotPositiveDefiniteError: a Ritz value is not positive.
    """
    if operator.lower_bound > 0:
        return operator.lower_bound, True
    spectrum = lanczos_spectrum(operator, seed=seed)
    if spectrum.smallest <= 0:
        raise measured(operator, spectrum.smallest, seed)
    return spectrum.smallest_positive, False


def lacking(operator: LinearOperator) -> str:
    """What keeps `C_λ` from being a positive diagonal and one semi-definite, factored term, in words."""
    rest, diagonal = split_diagonal(operator)
    if any(isinstance(term, FactoredOperator) and term.lower_bound < 0 for term in rest):
        return (
            "a loss that is not known to be convex (wherefrom.CustomLoss(..., convex=True) states that it is)"
        )
    free = int((diagonal <= 0).sum())
    if free:
        return f"{free:,} of {len(diagonal):,} parameters without either"
    return " + ".join(type(term).__name__ for term in rest) or "a diagonal only"
