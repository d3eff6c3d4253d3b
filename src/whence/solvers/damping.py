"""Damping `λ`: a number in the units of the curvature, or chosen from the measured spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from torch import Tensor

from whence.errors import InputError
from whence.linalg import DiagonalOperator, LinearOperator, Spectrum, lanczos_spectrum

# Worst condition number of C_λ that "auto" allows where the model is not known to be at a strict minimum.
AUTO_CONDITION = 1e3
# Where C is proved positive definite, damping only guards against rounding: this condition number is still
# solvable.
_SAFE_CONDITION = 1e6
_MARGIN = 1.5
_SMALLEST = 1e-6


@dataclass(frozen=True)
class RelativeDamping:
    """One `λ` for each layer: a share of the mean eigenvalue of its diagonal block of `C`.

    Args:
        fraction: the share; 0.1 is the literature's choice for EK-FAC (Grosse et al. 2023, §2.2).

    Raises:
        InputError: not a finite number above 0.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if (
            isinstance(self.fraction, bool)
            or not isinstance(self.fraction, Real)
            or not (math.isfinite(self.fraction) and self.fraction > 0)
        ):
            raise InputError(
                f"RelativeDamping({self.fraction!r}): expected a finite number above 0, e.g. 0.1"
            )


@dataclass(frozen=True)
class Damping:
    """The damping in use.

    Attributes:
        value: `λ ≥ 0`, added as `λI`; the largest one where layers differ.
        reason: how it was chosen, in one sentence.
        spectrum: what was measured to choose it, if anything was.
        per_block: `λ` by layer, where layers differ.
        diagonal: the same, entry by entry.
    """

    value: float
    reason: str
    spectrum: Spectrum | None = None
    per_block: Mapping[str, float] | None = None
    diagonal: Tensor | None = None

    def add_to(self, operator: LinearOperator) -> LinearOperator:
        """`C_λ`."""
        if self.diagonal is None:
            return operator.damped(self.value)
        return operator + DiagonalOperator(self.diagonal)


def choose_damping(
    operator: LinearOperator, damping: float | Literal["auto"], *, exact_curvature: bool, seed: int = 0
) -> Damping:
    """`λ` as given, or from a short Lanczos run on `operator`.

    Args:
        operator: `C` without damping.
        damping: a number ≥ 0, or `"auto"`.
        exact_curvature: whether `C` is the Hessian of a convex objective: then no damping is needed for the
            answer to be right, only for it to be computable.
        seed: of the Lanczos starts.

    `"auto"` rule. If `C` is the exact curvature and proved positive definite (weight decay on a convex
    model): `λ = 0` unless the condition number exceeds 1e6. Otherwise `λ` is the smallest value that (a)
    exceeds 1.5 times the most negative eigenvalue seen and (b) brings the condition number down to 1e3:
    directions flatter than a thousandth of the steepest are those in which a quadratic model of a network
    cannot be trusted, and they would dominate the scores.

    Raises:
        InputError: a damping that is neither `"auto"` nor a finite number ≥ 0.
    """
    if isinstance(damping, Tensor) and damping.ndim == 0:
        damping = damping.item()
    if damping != "auto":
        if (
            isinstance(damping, bool)
            or not isinstance(damping, Real)
            or not math.isfinite(damping)
            or damping < 0
        ):
            raise InputError(
                f"damping={damping!r}: expected 'auto', a finite number ≥ 0 in the units of the curvature, "
                "or RelativeDamping(fraction)"
            )
        return Damping(float(damping), "as given")
    spectrum = lanczos_spectrum(operator, steps=20, seed=seed)
    largest = max(spectrum.largest_upper, 0.0)
    if exact_curvature and operator.lower_bound > 0:
        condition = largest / operator.lower_bound
        if condition <= _SAFE_CONDITION:
            return Damping(
                0.0,
                "none needed: the curvature is exact, its smallest eigenvalue is at least "
                f"{operator.lower_bound:.3g} by the weight decay "
                f"(condition number at most {condition:.3g})",
                spectrum,
            )
        value = largest / _SAFE_CONDITION
        return Damping(
            value, f"brings the condition number from {condition:.3g} to {_SAFE_CONDITION:.0e}", spectrum
        )
    # A proven bound counts; otherwise what was seen, and never better than zero.
    floor = operator.lower_bound if math.isfinite(operator.lower_bound) else min(spectrum.smallest_lower, 0.0)
    by_condition = largest / AUTO_CONDITION - floor
    by_sign = _MARGIN * max(-floor, 0.0)
    if max(by_condition, by_sign) <= 0.0:
        if floor > 0.0:
            condition = largest / floor
            return Damping(
                0.0,
                f"none needed: the condition number is at most {condition:.3g} by the weight decay",
                spectrum,
            )
        return Damping(_SMALLEST, "the curvature vanishes: a token amount keeps it invertible", spectrum)
    if by_sign >= by_condition:
        return Damping(
            by_sign, f"{_MARGIN:g} times the most negative eigenvalue seen ({floor:.3g})", spectrum
        )
    reason = f"brings the condition number to {AUTO_CONDITION:.0e} for the largest eigenvalue {largest:.3g}"
    return Damping(by_condition, reason, spectrum)
