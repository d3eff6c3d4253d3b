"""What an audit shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wherefrom.influence import Ranking
from wherefrom.plain_text import one_line
from wherefrom.report import Card, verdicts
from wherefrom.report.images import block_picture
from wherefrom.report.layers import LayerReport, layer_report
from wherefrom.report.numbers import number, percent, shown_error
from wherefrom.report.verdicts import resolution

_MARKS = {"good": ("✓", "green"), "fair": ("~", "yellow"), "poor": ("✗", "red"), "none": ("·", "dim")}
_SHOWN = 3
# Blocks and remarks listed; the page has all of them.
_MOST_LAYERS, _MOST_REMARKS = 12, 4
_WIDEST_NAME = 18


def printed_audit(result: Any) -> RenderableType:
    """The verdicts for one model, and one query with its most helpful and harmful training examples."""
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for verdict in verdicts(result.page):
        mark, style = _MARKS[verdict.level]
        words = Text.assemble((f"{verdict.question} {verdict.answer}. ", "bold"), verdict.words)
        if verdict.numbers:
            words.append("\n" + " · ".join(f"{name} {value}" for name, value in verdict.numbers), style="dim")
        table.add_row(Text(mark, style=f"bold {style}"), words)
    layers = layer_report(result.page)
    parts: list[RenderableType] = [table] if layers is None else [table, _layers(layers), Text()]
    parts.append(_query(result, 0))
    for panel in result.embedded.panels:
        if panel.printed is not None:
            parts += [Text(), Text(panel.title, style="bold"), panel.printed]
    return Group(*parts)


def _layers(layers: LayerReport) -> RenderableType:
    """The plan, block by block; the costliest ones where there are many."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True)
    table.add_column("rule", no_wrap=True, overflow="ellipsis", max_width=12)
    for column in ("λ", "by", "rank", "flop", "bytes"):
        left = column == "by"
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    costliest = sorted(layers.rows, key=lambda row: -row.cost)[:_MOST_LAYERS]
    for row in layers.rows:
        if row not in costliest:
            continue
        name = row.name if len(row.name) <= _WIDEST_NAME else "…" + row.name[1 - _WIDEST_NAME :]
        cells = (name, row.rule, row.damping, row.method, row.rank, row.operations, row.bytes)
        table.add_row(*map(Text, cells))
    lines: list[RenderableType] = [Text("Layer by layer", style="bold"), Text(layers.left_out), table]
    hidden = len(layers.rows) - _MOST_LAYERS
    if hidden > 0:
        lines.append(Text(f"and {hidden} cheaper ones, listed on the page", style="dim"))
    lines += [Text(f"{name}: {words}") for name, words in layers.remarks[:_MOST_REMARKS]]
    if len(layers.remarks) > _MOST_REMARKS:
        lines.append(Text(f"and {len(layers.remarks) - _MOST_REMARKS} more such remarks", style="dim"))
    lines.append(Text(layers.contraction, style="dim"))
    return Group(*lines)


def _query(result: Any, q: int) -> RenderableType:
    section = result.page
    card = section.query_card(q)
    title = Text.assemble((one_line(card.title), "bold"))
    if card.predicted is not None:
        title.append(f": predicted {one_line(card.predicted)}")
        if card.probability is not None:
            title.append(f" with {percent(card.probability)}")
    if card.label is not None:
        title.append(f", in truth {one_line(card.label)}")
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("training example", no_wrap=True, overflow="ellipsis", max_width=24)
    for column in ("label", "score", "± error", *(("removal",) if section.sized else ())):
        table.add_column(column, justify="right", no_wrap=True, overflow="ellipsis", max_width=12)
    shown = min(_SHOWN, section.top)
    rankings = ((section.scores.helpful(shown, q), "cyan"), (section.scores.harmful(shown, q), "yellow"))
    added = [_add_ranking(table, result, q, ranking, style) for ranking, style in rankings]
    body: RenderableType = table
    if card.image is not None:
        body = Table.grid(padding=(0, 3, 0, 0))
        body.add_row(block_picture(card.image, card.scale), table)
    if not section.sized:
        note = Text("an order of likeness: these scores have no size and predict no change", style="dim")
        return Group(title, Padding(body, (1, 0, 0, 0)), note)
    note = Text("removal: predicted change of the query's measurement without that example", style="dim")
    if not all(added):
        note.append(";\n?: not resolved against its errors, see the page")
    return Group(title, Padding(body, (1, 0, 0, 0)), note)


def _add_ranking(table: Table, result: Any, q: int, ranking: Ranking, style: str) -> bool:
    """Whether every change in it is resolved."""
    fine, every = resolution(result.page), True
    table.add_row(Text(f"most {ranking.kind}", style=f"bold {style}"))
    for row in ranking:
        known = result.page.removal(q, row).resolved
        every = every and known
        card: Card = result.page.train_card(row["train"])
        cells = [
            Text(one_line(card.title)),
            Text(one_line(card.label or "")),
            Text(number(row["score"], sign=True), style=style),
            Text(_error(shown_error(row["error"], row["bound"], row["score"], fine))),
        ]
        if result.page.sized:
            change = number(row["predicted_change"], 3, sign=True) + ("" if known else "?")
            cells.append(Text(change, style="" if known else "dim"))
        table.add_row(*cells)
    return every


def _error(error: float) -> str:
    return number(error, 2) if math.isfinite(error) else "unknown"
