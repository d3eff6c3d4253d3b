"""What `wherefrom attack` shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wherefrom.plain_text import short
from wherefrom.report.numbers import percent
from wherefrom.studies.attack import AttackResult, PoisoningAudit
from wherefrom.studies.attack.panel import flip_names

_BAR = 24
_SHOWN = 8
_WIDEST = 14


def printed(report: Any) -> RenderableType:
    """Shares as bars, the verdict in words, and some of the flipped queries, under the name of the model or
    another title."""
    lines: list[RenderableType] = []
    found = report.found
    if isinstance(found, PoisoningAudit):
        counted = len(found.attacked) - len(found.not_converged)
        rows: list[tuple[int, float | int, int]] = [(k, len(found.flipped(k)), counted) for k in found.edits]
    else:
        rows = [(len(found.index), found.flips, len(found.queries))] if found.seeds else []
    if rows and rows[0][2]:
        lines.append(Padding(_bars(rows), (1, 0)))
    lines.append(Text(found.words))
    if report.remark:
        lines.append(Text(report.remark, style="dim"))
    table = _flips(report)
    if table is not None:
        lines.append(Padding(table, (1, 0, 0, 0)))
    return Group(*lines)


def _bars(rows: Sequence[tuple[int, float | int, int]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for k, flips, of in rows:
        share = flips / of
        full = round(_BAR * share)
        bar = Text.assemble(("█" * full, "red"), ("░" * (_BAR - full), "dim"))
        edits = f"{k} edited example{'' if k == 1 else 's'}"
        table.add_row(
            Text(edits),
            bar,
            Text("0 %" if share == 0 else percent(share), style="bold"),
            Text(f"{round(flips, 1):g} of {of} flip"),
        )
    return table


def _flips(report: Any) -> RenderableType | None:
    """The first flipped queries, with what was edited for them."""
    found, names = report.found, report.class_names
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for column in ("query", "before", "after", "edited training examples"):
        right = column == "query"
        table.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=None if right else 40,
        )
    if isinstance(found, PoisoningAudit):
        flipped = [
            (entry.query, entry.before, entry.after, entry.index) for entry in found.queries if entry.flipped
        ]
    else:
        flipped = _together(found)
    for query, before, after, index in flipped[:_SHOWN]:
        was, became = (short(name, _WIDEST) for name in flip_names(before, after, names))
        table.add_row(
            Text(str(report.numbers[query])),
            Text(was),
            Text(became, style="red"),
            Text(", ".join(map(str, index)), style="dim"),
        )
    if not flipped:
        return None
    if len(flipped) > _SHOWN:
        table.add_row(Text("…"), Text(f"{len(flipped) - _SHOWN} more", style="dim"))
    return table


def _together(result: AttackResult) -> list[tuple[int, int, int, list[int]]]:
    if not result.seeds:
        return []
    return [
        (query, int(result.before[0, position]), int(result.after[0, position]), result.index.tolist())
        for position, query in enumerate(result.queries.tolist())
        if bool(result.flipped[0, position])
    ]
