"""What the shape of the loss says of influence here, in plain words, and which damping follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wherefrom.influence import MinimumCheck
from wherefrom.studies.spectra.residual import HessianSplit

# The negative part of the Hessian's spectrum, relative to its sharpness, below which it is rounding or a
# leftover of training; and above which a quadratic model has no nearby minimum to speak of.
_SLIGHT, _STRONG = 1e-3, 0.1
# ‖R‖_F / ‖G‖_F: below, the Gauss-Newton matrix is the Hessian for all purposes; above, it is another matrix.
_SMALL_REST, _LARGE_REST = 0.1, 1.0
# A damping this many times −λ_min makes the Hessian definite with room for the error of λ_min.
_MARGIN = 1.5
_LEVELS = ("good", "fair", "poor")
_ANSWERS = {"good": "Yes", "fair": "With care", "poor": "Not without retraining"}


@dataclass(frozen=True)
class GeometryVerdict:
    """Whether influence can be trusted at these parameters, as far as the shape of the loss tells.

    Attributes:
        level: `"good"`, `"fair"` or `"poor"`: the worst of its reasons.
        answer: the level in words.
        reasons: `(level, sentence)` each.
        damping: the damping that follows, `λ ≥ 0`.
        damping_reason: why.
    """

    level: str
    answer: str
    reasons: tuple[tuple[str, str], ...]
    damping: float
    damping_reason: str


def judge(
    minimum: MinimumCheck,
    split: HessianSplit | str,
    damping: float,
    damping_reason: str,
    *,
    curvature_is_hessian: bool,
    learning_rate: float | None = None,
) -> GeometryVerdict:
    """The verdict.

    Args:
        minimum: of the fit.
        split: Hessian and rest, or why there is none.
        damping: in use in the fit.
        damping_reason: how it was chosen.
        curvature_is_hessian: whether scores use the Hessian itself.
        learning_rate: of the plain gradient descent the model was trained with, if known.

    The rules: the level of `minimum`; no negative eigenvalue beyond `1e-3 λ_max` is good, beyond `0.1
    λ_max` poor, one not known to that share fair; where scores use a Gauss-Newton matrix, `‖R‖_F ≤ 0.1
    ‖G‖_F` is good, beyond `‖G‖_F` poor. The damping that follows is the fit's, or `1.5 · (−λ_min(H))`
    where that is larger: below it the damped Hessian is not positive definite, so no nearby minimum
    exists whose movement the scores could describe. These are rules of thumb; retraining is the test.
    """
    reasons = [_of_minimum(minimum)]
    needed = 0.0
    if isinstance(split, str):
        reasons.append(("fair", f"The Hessian itself could not be looked at: {split.rstrip('.')}."))
    else:
        reasons.append(_of_sign(split))
        if not curvature_is_hessian:
            reasons.append(_of_rest(split))
        if learning_rate is not None:
            reasons.append(_of_sharpness(split, learning_rate))
        if split.negative_share > _SLIGHT:
            needed = _MARGIN * -(split.smallest - split.smallest_residual)
    if needed > damping:
        chosen, why = (
            needed,
            f"{_MARGIN:g} times the Hessian's most negative eigenvalue ({split.smallest:.3g}): "  # type: ignore[union-attr]
            f"the {damping:.3g} in use leaves it indefinite",
        )
    else:
        chosen, why = damping, f"the one in use: {damping_reason}"
    level = max((level for level, _ in reasons), key=_LEVELS.index)
    return GeometryVerdict(level, _ANSWERS[level], tuple(reasons), chosen, why)


def _of_minimum(minimum: MinimumCheck) -> tuple[str, str]:
    level = {"minimum": "good", "near": "fair", "not a minimum": "poor"}[minimum.verdict]
    return level, minimum.words


def _of_sign(split: HessianSplit) -> tuple[str, str]:
    share = split.negative_share
    if share <= _SLIGHT and split.smallest_residual > _SLIGHT * abs(split.largest):
        return "fair", (
            f"Whether the Hessian has negative curvature is not settled: the smallest eigenvalue found is "
            f"{split.smallest:.3g}, to {split.smallest_residual:.1g}, when the products for it ran out."
        )
    if share == 0.0:
        return "good", (
            f"No negative curvature was found: the Hessian's smallest eigenvalue is {split.smallest:.3g} "
            f"(± {split.smallest_residual:.1g})."
        )
    words = (
        f"The Hessian has negative curvature down to {split.smallest:.3g}, "
        f"{_percent(share)} of its sharpness {split.largest:.3g}"
    )
    if share <= _SLIGHT:
        return "good", f"{words}: next to nothing."
    if share <= _STRONG:
        return "fair", f"{words}: in those directions the model would move away, not settle."
    return "poor", f"{words}: this is a saddle as much as a valley, and scores describe a damped model of it."


def _of_rest(split: HessianSplit) -> tuple[str, str]:
    share = split.rest_share
    words = (
        "What the Gauss-Newton matrix leaves out of the Hessian (the network's own curvature) is "
        f"{_percent(share)} of it in Frobenius norm"
    )
    if share <= _SMALL_REST:
        return "good", f"{words}: scores by either agree."
    if share <= _LARGE_REST:
        return "fair", f"{words}: scores by the Hessian will differ somewhat."
    return "poor", f"{words}: the two are different matrices, and only retraining tells which is nearer."


def _of_sharpness(split: HessianSplit, learning_rate: float) -> tuple[str, str]:
    edge = 2 / learning_rate
    ratio = split.largest / edge
    words = f"Sharpness {split.largest:.3g} is {_percent(ratio)} of 2/learning rate = {edge:.3g}"
    if ratio < 0.9:
        return "good", f"{words}: gradient descent at that rate is stable here."
    return "fair", (
        f"{words}: at the edge of stability, where gradient descent at that rate no longer settles "
        "(Cohen et al. 2021); lower the rate at the end of training."
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) and share >= 0.01 else f"{share:.2%}"
