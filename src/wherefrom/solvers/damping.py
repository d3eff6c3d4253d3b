"""Damping `λ`: a number in the units of the curvature, or chosen from the measured spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.linalg import DiagonalOperator, LinearOperator, Spectrum, lanczos_spectrum
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.definite import Floor, measure_floor

# Worst condition number of C_λ that "auto" allows where the model is not known to be at a strict minimum.
AUTO_CONDITION = 1e3
# An exact, positive definite curvature is solved as it is up to this condition number: a factorisation in
# float64 then still leaves 2e-6 of relative error.
SAFE_CONDITION = 1e10
# What a solver gets that needs a positive diagonal and would get none: too little to be seen in scores.
_GUARD_CONDITION = 1e7
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
        departs: whether `C` alone would have given the exact first-order answer: then what `λ` does to the
            scores is part of their error.
        prepared: the solver, prepared for `C` itself where that was how its smallest eigenvalue was measured.
    """

    value: float
    reason: str
    spectrum: Spectrum | None = None
    per_block: Mapping[str, float] | None = None
    diagonal: Tensor | None = None
    departs: bool = False
    prepared: PreparedSolver | None = None

    def add_to(self, operator: LinearOperator) -> LinearOperator:
        """`C_λ`."""
        if self.diagonal is None:
            return operator.damped(self.value)
        return operator + DiagonalOperator(self.diagonal)


def choose_damping(
    operator: LinearOperator,
    damping: float | Literal["auto"],
    *,
    exact_curvature: bool,
    solver: Solver | None = None,
    affine: bool = True,
    seed: int = 0,
) -> Damping:
    """`λ` as given, or from the measured spectrum of `operator`.

    Args:
        operator: `C` without damping.
        damping: a number ≥ 0, or `"auto"`.
        exact_curvature: whether `C` is the Hessian of the objective: then no damping is needed for the
            answer to be right, only for it to be computable.
        solver: in use; one that factorises `C` measures its smallest eigenvalue on the way.
        affine: whether outputs are affine in the parameters. A network's Hessian is damped by what is
            trusted of it, unless a factorisation shows it to be positive definite.
        seed: of the Lanczos starts.

    `"auto"` rule. If `C` is the exact curvature and positive definite, proved by weight decay on every
    parameter or measured, `λ = 0` unless the condition number exceeds 1e10. Otherwise `λ` is the smallest
    value that (a) exceeds 1.5 times the most negative eigenvalue seen and (b) brings the condition number
    down to 1e3: directions flatter than a thousandth of the steepest are those in which a quadratic model of
    a network cannot be trusted, and they would dominate the scores.

    Raises:
        InputError: a damping that is neither `"auto"` nor a finite number ≥ 0.
    """
    if isinstance(damping, Tensor) and damping.ndim == 0:
        damping = damping.item()
    if damping != "auto":
        return Damping(_given(damping), "as given")
    spectrum = lanczos_spectrum(operator, steps=20, seed=seed)
    largest = max(spectrum.largest_upper, 0.0)
    if exact_curvature:
        floor = measure_floor(
            operator, solver, spectrum, condition=_solvable(operator, affine), affine=affine, seed=seed
        )
        if floor is not None:
            return _for_definite(floor, largest, spectrum)
    return _for_doubtful(operator.lower_bound, largest, spectrum)


def _given(damping: object) -> float:
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
    return float(damping)


def _solvable(operator: LinearOperator, affine: bool) -> float:
    """Condition number up to which a smallest eigenvalue that was measured is one: a network's Hessian is off
    by the rounding of its products, a Gram matrix is not."""
    return SAFE_CONDITION if affine else min(SAFE_CONDITION, 0.01 / torch.finfo(operator.dtype).eps)


def _for_definite(floor: Floor, largest: float, spectrum: Spectrum) -> Damping:
    """Of an exact curvature without an eigenvalue below `floor.value > 0`."""
    condition = largest / floor.value
    if condition > SAFE_CONDITION:
        return Damping(
            largest / SAFE_CONDITION,
            f"brings the condition number from {condition:.3g} to {SAFE_CONDITION:.0e}",
            spectrum,
            departs=True,
        )
    if floor.guarded:
        return Damping(
            largest / _GUARD_CONDITION,
            "a token amount: some parameters have no weight decay, and this solver needs some on each",
            spectrum,
            departs=True,
        )
    return Damping(
        0.0,
        f"none needed: the curvature is exact, its smallest eigenvalue is {floor.words} "
        f"(condition number at most {condition:.3g})",
        spectrum,
        prepared=floor.prepared,
    )


def _for_doubtful(lower_bound: float, largest: float, spectrum: Spectrum) -> Damping:
    """Of a curvature that is no exact one, or not positive definite."""
    # A proven bound counts; otherwise what was seen, and never better than zero.
    floor = lower_bound if math.isfinite(lower_bound) else min(spectrum.smallest_lower, 0.0)
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
