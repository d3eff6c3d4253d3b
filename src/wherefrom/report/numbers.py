"""How numbers are written for people, in the page and in the terminal."""

from __future__ import annotations

import math

# Beyond four digits either way a number reads better with an exponent.
_LARGE, _SMALL = 1e5, 1e-3
# A bound below this share of its score needs no finer estimate.
_NEGLIGIBLE = 1e-6


def number(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """A number with `digits` significant digits and a true minus sign."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        text = "0"
    elif _SMALL <= size < _LARGE:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:,.{decimals}f}"
    else:
        mantissa, exponent = f"{size:.{max(0, min(digits, 3) - 1)}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    text = text.replace("e-", "e−")
    prefix = "−" if value < 0 else "+" if sign and value > 0 else ""
    return prefix + text


def shown_error(estimate: float, bound: float, score: float, resolution: float) -> float:
    """The error written beside a score: the bound where that is negligible already, else the estimate.

    An estimate leaves rounding out and may be far below the last digit of its score, which limits it.

    Args:
        estimate, bound: of the solver's error.
        score: beside it.
        resolution: relative spacing of numbers in the dtype of the computation.
    """
    return bound if bound <= _NEGLIGIBLE * abs(score) else max(estimate, resolution * abs(score))


def error_beside(error: float) -> str:
    """An error as it is written beside a score, or that none is known."""
    return f"± {number(error, 2)}" if math.isfinite(error) else "± unknown"


def quantity(value: float) -> str:
    """A large amount with three digits and a prefix: `"12.5 G"`."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"


def percent(value: float) -> str:
    """A share in `[0, 1]` as a percentage that never rounds to nothing or up to certainty; a dash where it is
    not known."""
    if math.isnan(value):
        return "–"
    if 0 < value < 1e-3:
        return "<0.1 %"
    if 0.999 < value < 1:
        return ">99.9 %"
    whole = value == 0 or 0.0995 <= value < 0.995 or value >= 1
    return f"{100 * value:.{0 if whole else 1}f} %"
