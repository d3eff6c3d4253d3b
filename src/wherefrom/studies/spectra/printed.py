"""What `wherefrom spectrum` shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wherefrom.report.numbers import number, percent
from wherefrom.studies.spectra import ClassMeans, SpectrumReport
from wherefrom.studies.spectra.panel import MATRICES, chance_text, estimate_text

_STYLE = {"good": "bold green", "fair": "bold yellow", "poor": "bold red"}
_LAYERS = 12


def printed(result: Any) -> RenderableType:
    """The verdict, the numbers, and a row per layer."""
    lines: list[RenderableType] = []
    report = result.report
    verdict = report.verdict
    lines.append(
        Text.assemble(
            "Does the shape of the loss speak for influence here? ", (verdict.answer, _STYLE[verdict.level])
        )
    )
    for level, words in verdict.reasons:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(Text("•", style=_STYLE[level]), Text(words))
        lines.append(grid)
    lines.append(Text(f"Damping that follows: {number(verdict.damping, 3)}, {verdict.damping_reason}."))
    lines.append(Text())
    lines.append(_facts(report))
    lines.append(Text())
    lines.append(_layers(report))
    if len(report.layers) > _LAYERS:
        lines.append(Text(f"… {len(report.layers) - _LAYERS} more in layers.csv", style="dim"))
    if isinstance(report.classes, ClassMeans):
        words = (
            f"Class means explain {percent(report.classes.explained_by_class)} of the top "
            f"{len(report.top.values)} directions (chance: {chance_text(report.classes.chance_class)}); "
            f"means of class pairs {percent(report.classes.explained_by_pair)} "
            f"(chance: {chance_text(report.classes.chance_pair)})."
        )
        lines.append(Text(words))
    return Group(*lines)


def _facts(report: SpectrumReport) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    values = ", ".join(number(value, 3) for value in report.top.values.tolist()[:5])
    rows = [
        ("matrix", f"{MATRICES.get(report.curvature, report.curvature)}, p = {report.p:,}, n = {report.n:,}"),
        ("largest eigenvalues", values),
        ("trace", estimate_text(report.trace)),
    ]
    if report.effective_dimension is not None:
        rows.append(("effective dimension", estimate_text(report.effective_dimension)))
    if not isinstance(report.hessian, str):
        low, high = number(report.hessian.smallest, 3), number(report.hessian.largest, 3)
        rows.append(
            (
                "Hessian",
                f"from {low} to {high}; left out by Gauss-Newton: {percent(report.hessian.rest_share)}",
            )
        )
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), Text(value))
    return grid


def _layers(report: SpectrumReport) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=22)
    for name in ("parameters", "trace", "largest", "eff. dim.", "of the top"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in report.layers[:_LAYERS]:
        dimension = "–" if layer.effective_dimension is None else number(layer.effective_dimension.value, 3)
        table.add_row(
            Text(layer.name),
            f"{layer.size:,}",
            estimate_text(layer.trace),
            number(layer.largest, 3),
            dimension,
            percent(layer.top_share),
        )
    return table
