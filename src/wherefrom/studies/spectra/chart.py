"""How many eigenvalues lie where: a histogram on a signed logarithmic axis, as coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wherefrom.linalg import SpectralDensity
from wherefrom.report.blocks import Tone
from wherefrom.report.charts import ChartBar, Histogram, Tick
from wherefrom.report.numbers import number

# Eigenvalues below this share of the largest in size share one bin: their sign is rounding.
_ZERO_SHARE = 1e-6
_BINS_PER_DECADE, _LEAST_BINS = 4, 24
# Less than this share of an eigenvalue in a bin is quadrature noise, and is not drawn.
_LEAST = 0.05


@dataclass(frozen=True)
class SpectrumChart(Histogram):
    """Numbers of eigenvalues on logarithmic axes, and where the damping lies among them.

    Bars of negative eigenvalues are harmful, of positive ones helpful, and that of zero is muted.
    """

    damping: float | None


def spectrum_chart(
    density: SpectralDensity, damping: float, *, width: float = 640.0, height: float = 280.0
) -> SpectrumChart:
    """Bars for the number of eigenvalues per bin, each with plus and minus one standard error.

    Args:
        density: of the matrix.
        damping: marked by a line where it is positive and on the axis.
        width, height: of the picture.
    """
    nodes, weights = density.nodes.double().cpu().numpy(), density.weights.double().cpu().numpy()
    reach = max(float(np.abs(nodes).max()), 1e-300)
    smallest = _start_of_axis(nodes, weights * density.size, reach, damping)
    top = max(_LEAST_BINS, math.ceil(_BINS_PER_DECADE * math.log10(reach / smallest)))
    has_negative = bool(((nodes < -smallest) & (weights * density.size > _LEAST)).any())
    bins_below = top if has_negative else 0
    edges = smallest * (reach * (1 + 1e-9) / smallest) ** (np.arange(top + 1) / top)
    place = np.zeros(nodes.shape, dtype=int)
    size = np.clip(np.searchsorted(edges, np.abs(nodes), side="right"), 1, top)
    place = np.where(np.abs(nodes) < smallest, 0, np.where(nodes > 0, size, -size)) + bins_below
    place = np.clip(place, 0, None)
    count = bins_below + 1 + top
    each = np.stack([np.bincount(p, w, count) for p, w in zip(place, weights)]) * density.size
    mean = each.mean(0)
    error = each.std(0, ddof=1) / math.sqrt(len(each)) if len(each) > 1 and not density.exact else mean * 0
    return _drawn(mean, error, edges, bins_below, damping, width, height)


def _start_of_axis(
    nodes: Float[np.ndarray, "starts steps"],
    counts: Float[np.ndarray, "starts steps"],
    reach: float,
    damping: float,
) -> float:
    """A power of ten below everything that is to be told from zero."""
    sizes = np.abs(nodes[(counts > _LEAST) & (np.abs(nodes) >= reach * _ZERO_SHARE)])
    low = float(sizes.min()) if sizes.size else reach
    if reach * _ZERO_SHARE < damping < reach:
        low = min(low, damping)
    return float(10.0 ** math.floor(math.log10(min(low, reach / 10))))


def _drawn(
    mean: Float[np.ndarray, " b"],
    error: Float[np.ndarray, " b"],
    edges: Float[np.ndarray, " e"],
    below: int,
    damping: float,
    width: float,
    height: float,
) -> SpectrumChart:
    step = width / len(mean)
    highest = math.log10(max(10.0, float((mean + error).max()) * 1.2))
    # A twentieth of an eigenvalue stands at the floor, so that a single one has a height.
    floor = math.log10(_LEAST)

    def level(value: float) -> float:
        return height - max(0.0, (math.log10(max(value, _LEAST)) - floor) / (highest - floor)) * height

    bars = []
    for j in range(len(mean)):
        if mean[j] > _LEAST:
            tone: Tone = "harmful" if j < below else "muted" if j == below else "helpful"
            y = level(float(mean[j]))
            bars.append(
                ChartBar(
                    j * step + 1,
                    y,
                    step - 2,
                    height - y,
                    tone,
                    _title(float(mean[j]), float(error[j]), j - below, edges),
                    (level(float(mean[j] + error[j])), level(float(mean[j] - error[j]))),
                )
            )

    def across(value: float) -> float | None:
        if not edges[0] <= value <= edges[-1]:
            return None
        share = math.log(value / edges[0]) / math.log(edges[-1] / edges[0])
        return (below + 1 + share * (len(edges) - 1)) * step

    first, last = math.ceil(math.log10(edges[0])), math.floor(math.log10(edges[-1]))
    zero = (below + 0.5) * step
    ticks = [Tick(zero, "0")]
    for power in range(first, last + 1):
        at = across(10.0**power)
        if at is None or at < zero + 24:
            continue
        ticks.append(Tick(at, number(10.0**power, 1)))
        mirrored = 2 * zero - at
        if below:
            ticks.append(Tick(mirrored, number(-(10.0**power), 1)))
    powers = range(math.floor(highest) + 1)
    thinned = [power for power in powers if power % (1 if len(powers) < 6 else 2) == 0]
    return SpectrumChart(
        width,
        height,
        bars,
        ticks,
        [Tick(level(10.0**power), f"{10**power:,}") for power in thinned],
        across(damping) if damping > 0 else None,
    )


def _title(mean: float, error: float, j: int, edges: Float[np.ndarray, " e"]) -> str:
    about = f"about {number(mean, 2)}{f' ± {number(error, 2)}' if error > 0 else ''} eigenvalues"
    if j == 0:
        return f"{about} within ±{number(float(edges[0]), 2)}: zero for all purposes"
    low, high = float(edges[abs(j) - 1]), float(edges[abs(j)])
    if j < 0:
        low, high = -high, -low
    return f"{about} from {number(low, 3)} to {number(high, 3)}"
