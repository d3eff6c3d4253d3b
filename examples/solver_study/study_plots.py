"""The plots of the study: every line named where it runs, one row of panels for each model."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "koh_liang_2017"))

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator
from plotting import BLUE, GREEN, GREY, ORANGE, figure, save

ERROR = "relative error of the scores"


def draw(studies: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Write `solver-study-lissa` and `solver-study-damping-cg`, as PNG and SVG; returns their names."""
    panels = {
        "solver-study-lissa": (_depth, _scale, _batch, _repeats),
        "solver-study-damping-cg": (_damping, _tolerance, _cost),
    }
    for name, functions in panels.items():
        fig, axes = figure(len(studies), len(functions), 4.3 * len(functions), 3.6 * len(studies))
        for row, study in zip(axes, studies):
            for axis, function in zip(row, functions):
                function(axis, study)
            row[0].set_ylabel(f"{study['problem']}\n{ERROR}")
        save(fig, out, name)
    return list(panels)


def _axes(axis: Axes, title: str, x: str, low: float = 1e-3, high: float = 2.0) -> None:
    axis.set(title=title, xlabel=x, xscale="log", yscale="log", ylim=(low, high))
    axis.yaxis.set_major_formatter(_percent if low >= 1e-3 else _power)
    axis.yaxis.set_major_locator(LogLocator(numticks=7))
    axis.margins(x=0.15)


def _plain_ticks(axis: Axes, places: Sequence[float]) -> None:
    """These numbers, written out, and no others."""
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.minorticks_off()


def _percent(value: float, _: int) -> str:
    return f"{100 * value:g}%"


def _power(value: float, _: int) -> str:
    return f"{value:g}" if value >= 0.01 else f"1e{round(math.log10(value))}"


def _line(
    axis: Axes,
    x: Sequence[float],
    y: Sequence[float],
    color: str,
    label: str,
    *,
    at: int = -1,
    above: bool = True,
    style: str = "-",
) -> None:
    """A line with its name beside one of its points; points that are NaN are left out."""
    pairs = sorted((a, b) for a, b in zip(x, y) if np.isfinite(b) and b > 0)
    if not pairs:
        return
    axis.plot(*zip(*pairs), style, color=color, marker="o" if style == "-" else None, markersize=4, lw=1.6)
    at = max(-len(pairs), min(at, len(pairs) - 1))
    first, last = math.log(min(x)), math.log(max(x))
    position = (math.log(pairs[at][0]) - first) / max(last - first, 1e-9)
    axis.annotate(
        label,
        pairs[at],
        xytext=(0, 7 if above else -7),
        textcoords="offset points",
        color=color,
        fontsize=9,
        ha="left" if position < 0.3 else "right" if position > 0.7 else "center",
        va="bottom" if above else "top",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _column(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(row[key]) for row in rows]


def _depth(axis: Axes, study: dict[str, Any]) -> None:
    rows = study["depth"]
    depth = _column(rows, "depth")
    _axes(axis, "Depth removes bias, not noise", "depth (steps of one run)")
    _line(axis, depth, _column(rows, "bias_bound"), GREY, "bias: proven bound", at=1, style="--")
    _line(axis, depth, _column(rows, "bias"), BLUE, "bias, measured", at=0, above=False)
    _line(axis, depth, _column(rows, "deviation"), ORANGE, "spread of one run")
    chosen = study["start"]["depth"]
    axis.axvline(chosen, color=GREY, lw=0.8)
    axis.text(chosen, 1.1e-3, "bound 0.1% ", color=GREY, fontsize=9, ha="right")


def _scale(axis: Axes, study: dict[str, Any]) -> None:
    rows = study["scale"]
    share = _column(rows, "share")
    _axes(axis, "Too small a scale is refused", "scale, as a multiple of the measured one")
    _line(axis, share, _column(rows, "rms"), ORANGE, "error of one run", above=False)
    refused = [row for row in rows if row["diverged"] > 0]
    for row in refused:
        axis.plot(row["share"], 0.6, "x", color="#b00020", markersize=8, mew=2)
    if refused:
        count = " ".join(f"{round(row['diverged'] * 100)}%" for row in refused)
        axis.text(
            refused[0]["share"],
            0.4,
            f"× DivergenceError:\n{count} of runs",
            color="#b00020",
            fontsize=9,
            va="top",
        )
    _plain_ticks(axis, [0.125, 0.25, 0.5, 1, 2, 4])
    axis.axvline(1.0, color=GREY, lw=0.8)
    axis.text(1.0, 1.1e-3, " chosen", color=GREY, fontsize=9)


def _batch(axis: Axes, study: dict[str, Any]) -> None:
    rows = study["batch"]
    size, spread = _column(rows, "batch"), _column(rows, "rms")
    least = max(_column(rows, "examples"))
    equal = [value * (row["examples"] / least) ** 0.5 for value, row in zip(spread, rows)]
    _axes(axis, "Batch size: noise for cost", "examples per mini-batch")
    _plain_ticks(axis, size)
    _line(axis, size, spread, ORANGE, "error of one run", at=1)
    _line(
        axis, size, equal, BLUE, f"error with repeats, all\nat {least:,.0f} examples seen", at=1, above=False
    )


def _repeats(axis: Axes, study: dict[str, Any]) -> None:
    rows = study["repeats"]
    repeats = _column(rows, "repeats")
    _axes(axis, "Repeats divide the variance", "repeats (runs averaged)")
    _plain_ticks(axis, repeats)
    expected = [rows[0]["rms"] / r**0.5 for r in repeats]
    _line(axis, repeats, expected, GREY, "1/√repeats", style="--", above=False, at=0)
    _line(axis, repeats, _column(rows, "rms"), ORANGE, "error of the mean", at=-1)


def _damping(axis: Axes, study: dict[str, Any]) -> None:
    rows = study["damping_sweep"]
    damping = [max(row["damping"], 0.0) + study["weight_decay"] for row in rows]
    _axes(axis, "Damping moves the answer", "damping + weight decay", low=1e-8, high=3.0)
    _line(axis, damping, _column(rows, "moved"), BLUE, "moved from the undamped answer", at=-1)
    lissa = _column(rows, "lissa_after_repeats")
    _line(axis, damping, lissa, ORANGE, "LiSSA's own error, 4 repeats", at=-1, above=False)
    _line(axis, damping, [row["cg"]["error"] for row in rows], GREEN, "CG's own error, rtol 1e-5", at=0)


def _tolerance(axis: Axes, study: dict[str, Any]) -> None:
    _axes(axis, "CG: error follows the tolerance", "rtol (residual / right-hand side)", low=1e-12)
    conditions = sorted({row["condition"] for row in study["cg"]})
    for condition, color, at, above in zip(
        conditions, (BLUE, ORANGE, GREEN), (0, -1, -1), (False, False, True)
    ):
        rows = [row for row in study["cg"] if row["condition"] == condition]
        _line(
            axis,
            _column(rows, "rtol"),
            _column(rows, "error"),
            color,
            f"condition number {condition:,.0f}",
            at=at,
            above=above,
        )
    rtols = sorted({row["rtol"] for row in study["cg"]})
    _line(axis, rtols, rtols, GREY, "error = rtol", at=0, style="--")


def _cost(axis: Axes, study: dict[str, Any]) -> None:
    _axes(axis, "CG needs far fewer examples", "examples seen (all queries at once)", low=1e-8)
    repeats = [1, 4, 16, 64]
    rows = [row for row in study["batch"] if np.isfinite(row["deviation"])]
    for row, color, above in ((rows[0], ORANGE, False), (rows[-1], BLUE, True)):
        systematic = row["bias"] if np.isfinite(row["bias"]) else 0.0
        errors = [(systematic**2 + row["deviation"] ** 2 / r) ** 0.5 for r in repeats]
        examples = [row["examples"] * r for r in repeats]
        _line(
            axis, examples, errors, color, f"LiSSA, batch {row['batch']}", at=-1 if above else 0, above=above
        )
    rows = [row for row in study["cg"] if row["condition"] == study["reference_condition"]]
    _line(axis, _column(rows, "examples"), _column(rows, "error"), GREEN, "CG", at=3, above=False)
