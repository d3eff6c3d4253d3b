"""What `wherefrom geometry` shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wherefrom.plain_text import one_line
from wherefrom.report.numbers import number
from wherefrom.studies.geometry import GradientBounds
from wherefrom.studies.geometry.panel import steepest_first, tied
from wherefrom.studies.geometry.panel_layers import layer_rows, quantiles, violations
from wherefrom.studies.geometry.panel_words import share_text, short_name

_STEEPEST = 5
_BAR = 14
_WIDEST = 16


def printed(result: Any) -> RenderableType:
    """The gradients, the bound with its layers or the reason why there is none, the steepest examples."""
    lines: list[RenderableType] = []
    lines.append(_found(result))
    lines.append(Text())
    if result.bounds is None:
        lines.append(Text.assemble(("No bound for this network. ", "bold yellow"), result.reason))
    else:
        if result.reason:
            lines.append(Text.assemble(("Not by every layer. ", "bold yellow"), result.reason))
        lines.append(_bound(result.bounds))
        lines.append(Text())
        lines.append(_layers(result.bounds))
    lines.append(Text())
    same = tied(result.norms, result.top)
    lines.append(Text(same) if same else _steepest(result))
    return Group(*lines)


def _found(result: Any) -> Text:
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


def _steepest(result: Any) -> Table:
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
