"""The panel about a group that grows: what removing the first few, and then more, of a ranking does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wherefrom.interventions import RemovalCurve
from wherefrom.percentages import percentage
from wherefrom.report.charts import Tick, nice_ticks
from wherefrom.report.numbers import number
from wherefrom.report.panels import Panel

_WIDTH, _HEIGHT = 560.0, 260.0
_FAR = 0.1


@dataclass(frozen=True)
class Line:
    """One series of the chart: its style's name, and its points as SVG writes them."""

    kind: str
    points: list[tuple[float, float]]

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def growth_panel(curve: RemovalCurve) -> Panel:
    """Mean change over the queries against the number removed: first order, predicted, and retrained where a
    recipe carried it out."""
    table = curve.to_pandas()
    columns = [name for name in ("first_order", "predicted", "actual") if name in table]
    series = {name: table[name].to_numpy(dtype=float) for name in columns}
    return Panel.from_template(
        "As the group grows",
        "growth.html.j2",
        measurement=curve.changes[0].measurement,
        order=curve.changes[0].order,
        same=series["first_order"].tolist() == series["predicted"].tolist(),
        retrained="actual" in series,
        trusted=curve.trusted,
        rows=[
            {
                "size": f"{size:,}",
                "values": [number(float(series[name][at]), 3, sign=True) for name in columns],
                "left": percentage(curve.changes[at].left_over),
                "reason": curve.changes[at].mean_resolution().reason,
                "far": curve.changes[at].left_over > _FAR,
            }
            for at, size in enumerate(curve.sizes)
        ],
        chart=None if len(curve.sizes) < 2 else _chart(curve.sizes, series),
    )


def _chart(sizes: Sequence[int], series: dict[str, np.ndarray]) -> dict[str, object]:
    everything = np.concatenate([values[np.isfinite(values)] for values in series.values()])
    low, high = min(0.0, float(everything.min())), max(0.0, float(everything.max()))
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    last = max(sizes)

    def at(size: float | int, value: float | int) -> tuple[float, float]:
        return size / last * _WIDTH, _HEIGHT * (high - value) / (high - low)

    lines = [
        Line(name, [at(size, float(v)) for size, v in zip(sizes, values) if np.isfinite(v)])
        for name, values in series.items()
    ]
    ticks_y = [Tick(at(0, t)[1], number(t, 2)) for t in nice_ticks(low, high, 5)]
    ticks_x = [Tick(at(t, 0)[0], f"{t:g}") for t in nice_ticks(0.0, float(last), 6)]
    return {"width": _WIDTH, "height": _HEIGHT, "lines": lines, "ticks_x": ticks_x, "ticks_y": ticks_y}
