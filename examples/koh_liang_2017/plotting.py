"""One look for all figures: quiet axes, colours that colour-blind readers can tell apart, PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"  # of Okabe & Ito's palette

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.formatter.limits": (-4, 5),
    "legend.frameon": False,
    "svg.hashsalt": "wherefrom",
}


def figure(
    rows: int, columns: int, width: float, height: float, **kwargs: object
) -> tuple[Figure, np.ndarray]:
    """A figure of rows × columns axes in the common style."""
    plt.rcParams.update(STYLE)
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **kwargs
    )
    return fig, axes


def save(fig: Figure, out: Path, name: str) -> None:
    """Write `name`.png and `name`.svg; the same input gives the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    fig.savefig(out / f"{name}.png", dpi=160)
    fig.savefig(out / f"{name}.svg", metadata={"Date": None})
    plt.close(fig)


def show_digit(axis: Axes, pixels: np.ndarray, title: str, color: str) -> None:
    """One image, dark on light, in a coloured frame."""
    side = round(len(pixels) ** 0.5)
    axis.imshow(pixels.reshape(side, side), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.set_title(title, fontsize=9, fontweight="normal", color="#222222", loc="center")
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=2)


def predicted_against_actual(
    axis: Axes,
    actual: np.ndarray,
    predicted: np.ndarray,
    title: str,
    note: str,
    *,
    error: np.ndarray | None = None,
    equal: bool = True,
) -> None:
    """Scatter of predicted against actual change of the query's loss, with the diagonal.

    Args:
        error: half-lengths of error bars on the predictions.
        equal: the same limits on both axes; without it each axis fits its own values.
    """
    if error is not None:
        axis.errorbar(actual, predicted, yerr=error, fmt="none", ecolor=BLUE, elinewidth=0.6, alpha=0.35)
    axis.scatter(actual, predicted, s=18, color=BLUE, alpha=0.6, linewidths=0)
    x, y = _limits(actual), _limits(predicted)
    both = (min(x[0], y[0]), max(x[1], y[1]))
    axis.plot(both, both, color=ORANGE, linewidth=1.2, zorder=0)
    axis.set(
        xlim=both if equal else x, ylim=both if equal else y, title=title, xlabel="actual change of loss"
    )
    if equal:
        axis.set_aspect("equal")
    axis.text(0.04, 0.96, note, transform=axis.transAxes, va="top", fontsize=9, linespacing=1.5)


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.07 * (high - low)
    return low - margin, high + margin
