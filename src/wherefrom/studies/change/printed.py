"""What `wherefrom change` shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wherefrom.plain_text import short
from wherefrom.report.numbers import number
from wherefrom.studies.change.growth import growth_table
from wherefrom.studies.change.panel import step_words

_STYLES = {"good": "green", "fair": "yellow", "poor": "red"}
_WIDEST = 12


def printed(result: Any) -> RenderableType:
    """The edit, each query's predicted change beside the actual one, and whether to trust it."""
    lines: list[RenderableType] = []
    change, outcome = result.change, result.outcome
    done = change.words_done[:1].upper() + change.words_done[1:]
    order = {"first": "to first order", "second": "to second order", "newton": "by a Newton step"}
    how = order.get(change.order, "by steps to the optimum")
    lines.append(
        Text.assemble((f"{done}. ", "bold"), f"Change of the {change.measurement}, predicted {how}:")
    )
    lines.append(Text())
    lines.append(_table(result))
    lines.append(Text())
    reasons = Counter(
        found.reason.partition(" (")[0]
        for q in range(len(change))
        if not (found := change.resolution(q)).resolved
    )
    if reasons:
        said = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        lines.append(
            Text(f"?: not resolved, neither size nor sign is to be read. Because {said}", style="dim")
        )
    lines.append(Text(change.words, style=_STYLES[change.level]))
    if outcome is not None:
        lines.append(Text(outcome.words))
    if result.curve is not None:
        lines.append(Text())
        lines.append(Text(f"As the group grows: mean change of the {change.measurement}", style="bold"))
        lines.append(Text())
        lines.append(growth_table(result.curve))
        lines.append(Text())
    notes = ["one more step: what a further step towards the new optimum would add"]
    if outcome is not None:
        several = f", mean over {len(outcome.seeds)} seeds" if len(outcome.seeds) > 1 else ""
        notes.append(f"retrained: after training on the edited data, minus on the given data{several}")
    lines.append(Text("\n".join(notes), style="dim"))
    return Group(*lines)


def _table(result: Any) -> Table:
    change, outcome = result.change, result.outcome
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("query", justify="right", no_wrap=True)
    table.add_column("label", no_wrap=True)
    table.add_column(f"{change.measurement[:_WIDEST]} now", justify="right", no_wrap=True)
    for name in ("predicted", "one more step", *(("retrained",) if outcome is not None else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for q, asked in enumerate(result.numbers):
        value, known = float(change.values[q]), change.resolution(q).resolved
        cells = [
            Text(str(asked)),
            Text(short(result.query_card(q).label or "", _WIDEST)),
            Text(number(float(result.before[q]), 3)),
            Text(number(value, 3, sign=True) + ("" if known else "?"), style="bold" if known else "dim"),
            Text(step_words(float(change.remaining[q]), value), style="dim"),
        ]
        if outcome is not None:
            cells.append(Text(_actual(float(outcome.actual[q]), float(outcome.noise[q]))))
        table.add_row(*cells)
    return table


def _actual(value: float, noise: float) -> str:
    text = number(value, 3, sign=True)
    return f"{text} ± {number(noise, 1)}" if noise > 0 and math.isfinite(noise) else text
