"""Scatters on logarithmic axes: coordinates are computed here, colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wherefrom.report.charts import Dot, Scatter, Tick, nice_ticks
from wherefrom.report.numbers import number

# Every dot is an element of the page: beyond this many, only every so-manyth is drawn.
_MOST_DOTS = 2000
# Within fewer decades than this, round numbers between the powers of ten are marked too.
_FINE_DECADES = 3.0
# Room around the outermost dots, as a share of the axis.
_ROOM = 0.05


def log_scatter(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    titles: Sequence[str],
    *,
    marked: Sequence[int] = (),
    common: bool = False,
    width: float = 420.0,
    height: float = 340.0,
) -> Scatter | None:
    """Dots on logarithmic axes; `None` when no example has two positive values.

    Args:
        x, y: of every example.
        titles: shown when a dot is pointed at.
        marked: positions of examples that stand out; they are always drawn.
        common: one range for both axes, with the line on which they are equal.
        width, height: of the picture.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.log10(np.stack([x, y]).astype(np.float64))
    shown = np.flatnonzero(np.isfinite(places).all(0))
    if not len(shown):
        return None
    ranges = [_range(places[axis, shown]) for axis in (0, 1)]
    if common:
        ranges = [(min(ranges[0][0], ranges[1][0]), max(ranges[0][1], ranges[1][1]))] * 2
    (x_low, x_high), (y_low, y_high) = ranges

    def across(value: float) -> float:
        return (value - x_low) / (x_high - x_low) * width

    def down(value: float) -> float:
        return height - (value - y_low) / (y_high - y_low) * height

    standing = set(marked)
    ordinary = [int(k) for k in shown if int(k) not in standing]
    step = max(1, math.ceil(len(ordinary) / _MOST_DOTS))

    def dots(numbers: Sequence[int]) -> list[Dot]:
        return [Dot(across(float(places[0, k])), down(float(places[1, k])), 0.0, titles[k]) for k in numbers]

    drawn, above = dots(ordinary[::step]), dots([int(k) for k in shown if int(k) in standing])
    return Scatter(
        width,
        height,
        drawn,
        [Tick(across(math.log10(t)), _label(t)) for t in log_ticks(x_low, x_high)],
        [Tick(down(math.log10(t)), _label(t)) for t in log_ticks(y_low, y_high)],
        (0.0, height, width, 0.0) if common else None,
        above,
        len(titles) - len(drawn) - len(above),
    )


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between `10**low` and `10**high`, at most about `most` of them."""
    if high - low < 1:
        return [t for t in nice_ticks(10.0**low, 10.0**high, most - 1) if t > 0]
    if high - low < _FINE_DECADES:
        decades = range(math.floor(low), math.ceil(high) + 1)
        for leading in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
            ticks = [f * 10.0**d for d in decades for f in leading if low <= math.log10(f) + d <= high]
            if len(ticks) <= most:
                return ticks
    first, last = math.ceil(low), math.floor(high)
    step = max(1, math.ceil((last - first + 1) / most))
    return [10.0**d for d in range(first, last + 1) if d % step == 0]


def _label(tick: float) -> str:
    one_digit = math.isclose(float(f"{tick:.0e}"), tick)
    return number(tick, 1 if one_digit else 2)


def _range(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The ends of an axis, in decades: a little more than the values, and a third of a decade at least."""
    low, high = float(values.min()), float(values.max())
    room = max(_ROOM * (high - low), (0.3 - (high - low)) / 2, 0.02)
    return low - room, high + room
