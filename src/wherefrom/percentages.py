"""How a share is written for people."""

from __future__ import annotations

import math

_HUGE = 1e4


def percentage(share: float, digits: int = 2) -> str:
    """A share as a percentage: `"0.35 %"`, `"12 %"`, `"1,250 %"`; never with an exponent.

    Args:
        share: 0.12 is 12 %. Infinity and what is no number are "unknown".
        digits: significant ones, below 100 %; whole percents above.
    """
    if not math.isfinite(share):
        return "unknown"
    value = 100 * abs(share)
    sign = "−" if share < 0 else ""
    if value >= 100 * _HUGE:
        return f"more than {sign}{100 * _HUGE:,.0f} %"
    if value == 0:
        return "0 %"
    decimals = max(0, digits - 1 - math.floor(math.log10(value)))
    if decimals > 4:
        return f"below {sign}0.001 %"
    rounded = round(value, decimals)
    # 9.96 rounds up to a number with one digit more before the point.
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    return f"{sign}{rounded:,.{decimals}f} %"
