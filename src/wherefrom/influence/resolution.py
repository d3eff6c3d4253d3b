"""Whether a predicted number stands out of all its errors: the one answer that every table and page shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Range = tuple[float, float]

ANY: Range = (-math.inf, math.inf)
# Rounding of a loss that is zero is no loss below zero.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Resolution:
    """Whether a predicted change can be told from its errors.

    Attributes:
        resolved: it is larger than all its errors together, and possible.
        reason: if not, why, in plain words; empty otherwise.
    """

    resolved: bool
    reason: str = ""


RESOLVED = Resolution(True)


def unresolved(found: Iterable[Resolution]) -> tuple[int, str]:
    """How many are not resolved, and what that comes from, the most frequent first: reasons but for the
    numbers in parentheses, which differ from one to the next."""
    reasons = Counter(one.reason.partition(" (")[0] for one in found if not one.resolved)
    return reasons.total(), "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common())


def resolve_change(
    change: float,
    errors: Mapping[str, float],
    *,
    now: float | None = None,
    range: Range = ANY,
    measurement: str = "loss",
) -> Resolution:
    """Whether a predicted change is more than its errors.

    Args:
        change: predicted, to first order or by a step.
        errors: by what they come from, as `"the solver"`; each is the size it is expected to have, and they
            are added up. Infinite or NaN: not measured.
        now: the value that is to change; `None` where it is not known.
        range: what the measurement can be, see `Loss.range`.
        measurement: its name.

    A change that would leave the range is not possible, and one that is as large as the distance of `now` to
    the end of the range is too large for a linear prediction: such a loss of `a` that is to fall or rise by
    `a` or more.
    """
    unknown = [name for name, error in errors.items() if not math.isfinite(error)]
    if not math.isfinite(change):
        return Resolution(False, "it is no finite number")
    low, high = range
    if now is not None and math.isfinite(now):
        after, slack = now + change, _ROUNDING * max(1.0, abs(now))
        if after < low - slack:
            impossible = "a negative" if low == 0 else f"a {measurement} below {low:g}, an impossible"
            return Resolution(False, f"it would give {impossible} {measurement} ({after:.3g})")
        if after > high + slack:
            return Resolution(False, f"it would give a {measurement} above {high:g} ({after:.3g})")
    total = sum(error for error in errors.values() if math.isfinite(error))
    if abs(change) <= total:
        largest = max(errors, key=lambda name: errors[name] if math.isfinite(errors[name]) else 0.0)
        others = "" if errors[largest] >= abs(change) else " and its other errors"
        return Resolution(False, f"it is within the error of {largest}{others} (± {total:.2g})")
    if unknown:
        return Resolution(False, f"the error of {unknown[0]} was not measured")
    if now is not None and math.isfinite(now):
        ends = [abs(now - end) for end in range if math.isfinite(end)]
        if ends and abs(change) > min(ends) + _ROUNDING * max(1.0, abs(now)):
            return Resolution(
                False, f"it is larger than the {measurement} itself ({now:.3g}), too large for first order"
            )
    return RESOLVED
