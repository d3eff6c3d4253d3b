"""The damping that repairs a curvature which is not positive definite: in scale with it, and enough."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.linalg import LinearOperator, lanczos_spectrum

# Beyond the most negative eigenvalue: that much of it again is left as the smallest.
_MARGIN = 1.5
_STEPS = 60


def repair_damping(smallest: float, largest: float, dtype: torch.dtype) -> float:
    """What to add to eigenvalues from `smallest` to `largest` so that a solve in this dtype means something,
    rounded up to two digits.

    Half of the digits survive it: a damping at the level of rounding would only make rounding the answer.
    """
    size = max(abs(smallest), abs(largest))
    rounding = math.sqrt(torch.finfo(dtype).eps) * size
    return round_up(max(-_MARGIN * smallest, rounding - min(smallest, 0.0)) if size > 0 else 1e-6)


def round_up(value: float) -> float:
    """To two significant digits, never below `value`."""
    if not (math.isfinite(value) and value > 0):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    # Printed with two digits it must still be enough.
    return float(f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.1e}")


def not_positive_definite(
    smallest: float, largest: float, dtype: torch.dtype, *, seen: str = ""
) -> NotPositiveDefiniteError:
    """The error for a `C_λ` with these extreme eigenvalues.

    Args:
        smallest, largest: of `C_λ`.
        dtype: of the products with it.
        seen: what met it, for the message: a sentence.
    """
    repair = repair_damping(smallest, largest, dtype)
    return NotPositiveDefiniteError(
        f"the curvature is not positive definite: its most negative eigenvalue is {smallest:.4g} or lower, "
        f"its largest about {largest:.4g}. {seen}The model is not at a strict minimum of this objective. Add "
        f"damping={repair:.2g} to what is set now, use curvature='ggn', or train to convergence.",
        eigenvalue=smallest,
        damping=repair,
    )


def of_eigenvalues(values: Float[Tensor, " p"], dtype: torch.dtype) -> NotPositiveDefiniteError:
    """The error for all eigenvalues, ascending."""
    return not_positive_definite(float(values[0]), float(values.abs().max()), dtype)


def measured(
    operator: LinearOperator, quotient: float, seed: int, *, seen: str = ""
) -> NotPositiveDefiniteError:
    """The error for a Rayleigh quotient that is not positive: a longer Lanczos run finds how far below zero
    the eigenvalues reach, which no single direction tells.

    Args:
        operator: `C_λ`.
        quotient: in its units; or any number that is not below its smallest eigenvalue.
        seed: of the start.
        seen: what met it, for the message: a sentence.
    """
    spectrum = lanczos_spectrum(operator, steps=_STEPS, seed=seed)
    smallest = min(quotient, spectrum.smallest_lower)
    return not_positive_definite(smallest, spectrum.largest_upper, operator.dtype, seen=seen)
