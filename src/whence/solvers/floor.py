"""What a solver without a factorisation knows of the smallest eigenvalue of `C_λ`."""

from __future__ import annotations

from whence.errors import NotPositiveDefiniteError
from whence.linalg import LinearOperator, lanczos_spectrum


def eigenvalue_floor(operator: LinearOperator, seed: int) -> tuple[float, bool]:
    """A lower bound of the eigenvalues, and whether it is proven; otherwise a cautious Ritz value.

    Raises:
        NotPositiveDefiniteError: a Ritz value is not positive.
    """
    if operator.lower_bound > 0:
        return operator.lower_bound, True
    spectrum = lanczos_spectrum(operator, seed=seed)
    if spectrum.smallest <= 0:
        raise not_positive_definite(spectrum.smallest_lower)
    return spectrum.smallest_positive, False


def not_positive_definite(eigenvalue: float) -> NotPositiveDefiniteError:
    """The error for an eigenvalue, or a Rayleigh quotient, that is not positive."""
    repair = max(-1.1 * eigenvalue, 1e-12)
    return NotPositiveDefiniteError(
        f"the curvature is not positive definite: it has the eigenvalue {eigenvalue:.4g} or lower. Add at "
        f"least damping={repair:.3g} to what is set now, use curvature='ggn', or train to convergence.",
        eigenvalue=eigenvalue,
        damping=repair,
    )
