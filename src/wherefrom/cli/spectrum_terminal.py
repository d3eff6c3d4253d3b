"""What `wherefrom spectrum` prints: readable at 80 columns, with or without colour."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wherefrom.cli.spectrum import SpectrumResult
from wherefrom.report.numbers import number, percent
from wherefrom.report.spectrum_panel import MATRICES, chance_text, estimate_text
from wherefrom.studies.spectra import ClassMeans, SpectrumReport

_STYLE = {"good": "bold green", "fair": "bold yellow", "poor": "bold red"}
_LAYERS = 12


def print_spectrum(console: Console, result: SpectrumResult) -> None:
    """The verdict, the numbers, and a row per layer."""
    report = result.report
    console.print()
    console.rule(Text(result.task.name, style="bold"), align="left", style="dim")
    verdict = report.verdict
    console.print(Text.assemble("Can influence be trusted here? ", (verdict.answer, _STYLE[verdict.level])))
    for level, words in verdict.reasons:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(Text("•", style=_STYLE[level]), Text(words))
        console.print(grid)
    console.print(Text(f"Damping that follows: {number(verdict.damping, 3)}, {verdict.damping_reason}."))
    console.print()
    console.print(_facts(report))
    console.print()
    console.print(_layers(report))
    if len(report.layers) > _LAYERS:
        console.print(Text(f"… {len(report.layers) - _LAYERS} more in layers.csv", style="dim"))
    if isinstance(report.classes, ClassMeans):
        words = (
            f"Class means explain {percent(report.classes.explained_by_class)} of the top "
            f"{len(report.top.values)} directions (chance: {chance_text(report.classes.chance_class)}); "
            f"means of class pairs {percent(report.classes.explained_by_pair)} "
            f"(chance: {chance_text(report.classes.chance_pair)})."
        )
        console.print(Text(words))


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
