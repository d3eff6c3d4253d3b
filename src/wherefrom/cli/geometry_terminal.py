"""What `wherefrom geometry` prints: readable at 80 columns, with or without colour."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wherefrom.cli.geometry import GeometryResult
from wherefrom.plain_text import one_line
from wherefrom.report.geometry_layers import layer_rows, quantiles, violations
from wherefrom.report.geometry_panel import steepest_first, tied
from wherefrom.report.geometry_words import share_text, short_name
from wherefrom.report.numbers import number
from wherefrom.studies.geometry import GradientBounds

_STEEPEST = 5
_BAR = 14
_WIDEST = 16


def print_geometry(console: Console, result: GeometryResult) -> None:
    """The gradients, the bound with its layers or the reason why there is none, the steepest examples."""
    console.print()
    console.rule(Text(result.task.name, style="bold"), align="left", style="dim")
    console.print(_found(result))
    console.print()
    if result.bounds is None:
        console.print(Text.assemble(("No bound for this network. ", "bold yellow"), result.reason))
    else:
        if result.reason:
            console.print(Text.assemble(("Not by every layer. ", "bold yellow"), result.reason))
        console.print(_bound(result.bounds))
        console.print()
        console.print(_layers(result.bounds))
    console.print()
    same = tied(result.norms, result.top)
    console.print(Text(same) if same else _steepest(result))


def _found(result: GeometryResult) -> Text:
    inputs, parameters = result.norms.inputs, result.norms.parameters
    of = "" if len(result.numbers) == result.n else f" (of {result.n:,}, spread evenly)"
    typical, largest = quantiles(inputs, 0.5, 1.0)
    complexity = result.complexity
    error = "exact" if complexity.standard_error == 0 else f"± {number(complexity.standard_error, 2)}"
    return Text.assemble(
        ("Gradients in input and parameters. ", "bold"),
        f"{len(result.numbers):,} training examples looked at{of}; f is {short_name(result.scalar)}. "
        f"Typical ‖∇ₓf‖ {number(typical, 3)}, largest {number(largest, 3)}; typical ‖∇_θ f‖ "
        f"{number(quantiles(parameters, 0.5)[0], 3)}. Geometric complexity {number(complexity.value, 3)} "
        f"({error}).",
    )


def _bound(bounds: GradientBounds) -> Text:
    above, n = violations(bounds), len(bounds.left)
    if above:
        return Text(
            f"{above:,} of {n:,} examples lie above the bound, which the theorem rules out: a spectral norm "
            "has NOT converged.",
            style="bold red",
        )
    typical, closest = quantiles(bounds.ratio, 0.5, 1.0)
    return Text.assemble(
        ("The bound holds on every example. ", "bold green"),
        f"Made of ‖∇ₓf‖² and the layers' norms, it reaches {share_text(typical)} of ‖∇_θ f‖² on the typical "
        f"example and {share_text(closest)} on the closest.",
    )


def _layers(bounds: GradientBounds) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    for name in ("‖W‖₂", "‖h‖", "‖∇ₓh‖₂", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tightness", no_wrap=True)
    for row in layer_rows(bounds):
        filled = 0 if row.tightness != row.tightness else round(_BAR * row.tightness)
        bar = Text.assemble(("█" * filled, "cyan"), ("░" * (_BAR - filled), "dim"))
        table.add_row(
            Text(row.name),
            Text(number(row.weight_norm, 3)),
            Text(number(row.activation_norm, 3)),
            Text(number(row.jacobian_norm, 3)),
            Text(share_text(row.share)),
            bar.append(f" {share_text(row.tightness)}"),
        )
    return table


def _steepest(result: GeometryResult) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("steepest: train", justify="right", no_wrap=True)
    for name in ("label", "predicted"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    for name in ("‖∇ₓf‖", "‖∇_θ f‖"):
        table.add_column(name, justify="right", no_wrap=True)
    for k in steepest_first(result.norms)[: min(_STEEPEST, result.top)]:
        card = result.card(k)
        wrong = card.correct is False
        table.add_row(
            Text(str(result.numbers[k])),
            Text(one_line(card.label or ""), style="yellow"),
            Text(one_line(card.predicted or ""), style="bold red" if wrong else ""),
            Text(number(float(result.norms.inputs[k]), 3)),
            Text(number(float(result.norms.parameters[k]), 3)),
        )
    return table
