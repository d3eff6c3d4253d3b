"""Charts as inline SVG: coordinates are computed here, colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from wherefrom.evaluation import Verification
from wherefrom.report.blocks import Chart, Tone
from wherefrom.report.numbers import number

# Every dot is an element of the page: beyond this many, those of smallest prediction are left out.
_MOST_DOTS = 4000
# Even, so that zero lies between two bars and each bar is helpful or harmful.
_BINS = 40


@dataclass(frozen=True)
class Dot:
    """A point of the scatter, in the picture's units."""

    x: float
    y: float
    noise: float
    title: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """Dots between `width` and `height` units, with the origin at the top left.

    Attributes:
        dots: all but the marked.
        identity: the ends `(x1, y1, x2, y2)` of the line on which both axes are equal; `None` where the axes
            have scales of their own.
        marked: drawn above the others, in another colour.
        left_out: examples without a place on the axes, because a value is zero or not finite, or not drawn
            because there are too many.
    """

    width: float
    height: float
    dots: list[Dot]
    ticks_x: list[Tick]
    ticks_y: list[Tick]
    identity: tuple[float, float, float, float] | None = None
    marked: Sequence[Dot] = ()
    left_out: int = 0


@dataclass(frozen=True)
class ChartBar:
    """A bar of a histogram, in the picture's units; the whisker is one standard error to either side."""

    x: float
    y: float
    width: float
    height: float
    tone: Tone
    title: str
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts on a logarithmic axis."""

    width: float
    height: float
    bars: list[ChartBar]
    ticks_x: list[Tick]
    ticks_y: list[Tick]


def scatter_chart(plot: Scatter, label: str, across: str, down: str, caption: str, **shown: Any) -> Chart:
    """The picture of a scatter, with the names of its axes."""
    values = {"plot": plot, "label": label, "across": across, "down": down}
    return Chart("scatter.html.j2", values, caption, **shown)


def actual_chart(plot: Scatter, caption: str, **shown: Any) -> Chart:
    """Predicted changes across, and down what retraining did."""
    label, down = "Predicted against actual change", "actual change, by retraining"
    heading = "Predicted against actual"
    return scatter_chart(plot, label, "predicted change", down, caption, heading=heading, **shown)


def scatter(verification: Verification, names: list[str], size: float = 360.0) -> Scatter | None:
    """Dots of all removed examples and queries on common axes; `None` when no retraining finished."""
    predicted, actual = verification.predicted.ravel(), verification.actual.ravel()
    noise = np.nan_to_num(verification.noise.ravel())
    if predicted.size == 0:
        return None
    order = np.argsort(-np.abs(predicted), kind="stable")[:_MOST_DOTS][::-1]
    queries = verification.predicted.shape[1]
    titles = [f"without train {int(verification.removed[k // queries])}, {names[k % queries]}" for k in order]
    left_out = predicted.size - len(order)
    return against_actual(predicted[order], actual[order], noise[order], titles, size, left_out)


def against_actual(
    predicted: Float[np.ndarray, " k"],
    actual: Float[np.ndarray, " k"],
    noise: Float[np.ndarray, " k"],
    titles: Sequence[str],
    size: float = 360.0,
    left_out: int = 0,
) -> Scatter:
    """A dot for each pair, on common axes that begin at or below zero."""
    low = float(min(predicted.min(), (actual - noise).min(), 0.0))
    high = float(max(predicted.max(), (actual + noise).max(), 0.0))
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    unit = size / (high - low)
    dots = [
        Dot(
            (x - low) * unit,
            size - (y - low) * unit,
            float(error) * unit,
            f"{title}: predicted {number(float(x), sign=True)}, actual {number(float(y), sign=True)}",
        )
        for x, y, error, title in zip(predicted, actual, noise, titles)
    ]
    ticks = nice_ticks(low, high, 5)
    return Scatter(
        size,
        size,
        dots,
        [Tick((t - low) * unit, number(t, 2)) for t in ticks],
        [Tick(size - (t - low) * unit, number(t, 2)) for t in ticks],
        (0.0, size, size, 0.0),
        left_out=left_out,
    )


def histogram(
    values: Float[np.ndarray, "q n"], *, flip: bool, width: float = 460.0, height: float = 300.0
) -> Histogram:
    """Scores of all pairs; `flip` when a negative score is the helpful one."""
    flat = values.ravel().astype(np.float64)
    reach = float(np.abs(flat).max()) or 1.0
    counts, edges = (made.tolist() for made in np.histogram(flat, bins=_BINS, range=(-reach, reach)))
    decades = max(1, math.ceil(math.log10(max(2, *counts))))

    def level(count: int) -> float:
        # One example must be visible beside thousands: half a decade below 1 is the floor.
        return (math.log10(count) + 0.5) / (decades + 0.5) * height if count > 0 else 0.0

    step = width / _BINS
    bars = []
    for j, count in enumerate(counts):
        if count:
            middle = 0.5 * (edges[j] + edges[j + 1])
            words = f"{count:,} scores from {number(edges[j], 3)} to {number(edges[j + 1], 3)}"
            bars.append(
                ChartBar(
                    j * step + 0.75,
                    height - level(count),
                    step - 1.5,
                    level(count),
                    "helpful" if (middle > 0) != flip else "harmful",
                    words,
                )
            )
    ticks = [t for t in nice_ticks(-reach, reach, 7) if abs(t) <= reach]
    return Histogram(
        width,
        height,
        bars,
        [Tick((t + reach) / (2 * reach) * width, number(t, 2)) for t in ticks],
        [Tick(height - level(10**d), f"{10**d:,}") for d in range(decades + 1)],
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between `low` and `high`, zero written as zero."""
    raw = (high - low) / about
    if not math.isfinite(raw) or raw <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [0.0 if k == 0 else k * step for k in range(first, last + 1)]
