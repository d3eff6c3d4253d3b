"""A study's answer in a terminal: the same blocks as on its page, readable at 80 columns, with or without
colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from wherefrom.plain_text import one_line, short
from wherefrom.report.blocks import (
    Beside,
    Cards,
    Cell,
    Chart,
    Column,
    Columns,
    Facts,
    Section,
    Shown,
    Table,
    Verdicts,
    Words,
)
from wherefrom.report.images import block_picture

STYLES = {
    "": "",
    "strong": "bold",
    "muted": "dim",
    "helpful": "cyan",
    "harmful": "yellow",
    "good": "green",
    "fair": "yellow",
    "poor": "red",
}
_MARKS = {"good": ("✓", "green"), "fair": ("~", "yellow"), "poor": ("✗", "red"), "none": ("·", "dim")}
_BAR = 6
_WIDEST = 20


def print_section(console: Console, section: Section) -> None:
    """The model's name and facts, how far to trust the answer, and its blocks."""
    console.print()
    console.rule(Text(one_line(section.name), style="bold"), align="left", style="dim")
    facts = "  ".join(one_line(f"{name} {value}") for name, value in section.facts)
    if facts:
        console.print(Text(facts))
    trust = section.trust
    style = STYLES["muted" if trust.tone == "none" else trust.tone]
    console.print(
        Text.assemble(("Can this be trusted? ", "dim"), (trust.verdict.capitalize(), f"bold {style}"))
    )
    console.print(Text(trust.words))
    console.print(Text.assemble(("What to do: ", "dim"), trust.advice))
    for part in _all(section.blocks):
        console.print(part)


def _all(blocks: Sequence[Any]) -> Iterator[RenderableType]:
    """What is shown of them, each with a line between and its heading."""
    for block in blocks:
        shown = None if getattr(block, "where", "everywhere") == "page" else _rendered(block)
        if shown is None:
            continue
        yield Text()
        if getattr(block, "heading", ""):
            yield Text(one_line(block.heading), style="bold")
        yield shown


def _rendered(block: Any) -> RenderableType | None:
    if isinstance(block, Words):
        return Text.assemble(
            (f"{block.lead} " if block.lead else "", "bold"), (block.text, STYLES[block.tone])
        )
    if isinstance(block, Columns):
        return Text("\n".join(f"{lead} {text}" for lead, text in block.notes), style="dim")
    if isinstance(block, Beside):
        parts = list(_all(block.blocks))
        return Group(*parts[1:]) if parts else None
    if isinstance(block, Facts):
        return _facts(block)
    if isinstance(block, Verdicts):
        return _verdicts(block)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Cards):
        return _cards(block)
    if isinstance(block, Chart):
        return Text(block.caption, style="dim") if block.caption else None
    raise AssertionError(f"no way to print a {type(block).__name__}")


def _facts(block: Facts) -> RenderableType:
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for name, value in block.pairs:
        grid.add_row(Text(one_line(name), style="dim"), Text(one_line(value)))
    return grid


def _verdicts(block: Verdicts) -> RenderableType:
    grid = Grid.grid(padding=(0, 2, 1, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for verdict in block.verdicts:
        mark, style = _MARKS[verdict.level]
        words = Text.assemble((f"{verdict.question} {verdict.answer}. ", "bold"), verdict.words)
        for level, sentence in verdict.reasons:
            words.append("\n• ", style=f"bold {_MARKS[level][1]}").append(sentence)
        if verdict.numbers:
            words.append("\n" + " · ".join(f"{name} {value}" for name, value in verdict.numbers), style="dim")
        grid.add_row(Text(mark, style=f"bold {style}"), words)
    return grid


def _table(block: Table) -> RenderableType:
    kept = [k for k, column in enumerate(block.columns) if column.where != "page"]
    grid = Grid(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for k in kept:
        column = block.columns[k]
        grid.add_column(
            column.name,
            justify="left" if column.left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=column.width or (_WIDEST if column.left else None),
        )
    for row in block.rows[: block.shown]:
        grid.add_row(*(_cell(row[k], block.columns[k]) for k in kept))
    lines: list[RenderableType] = [grid]
    hidden = len(block.rows) - block.shown
    if hidden > 0:
        lines.append(Text(f"and {hidden:,} more{f', in {block.file}' if block.file else ''}", style="dim"))
    if block.note:
        lines.append(Text(block.note, style="dim"))
    return Group(*lines)


def _cell(value: str | Cell, column: Column) -> Text:
    cell = value if isinstance(value, Cell) else Cell(value)
    text = Text(one_line(cell.text), style=STYLES["muted" if cell.doubt else cell.tone])
    if cell.doubt:
        text.append("?")
    if cell.bar is not None and not column.signed:
        text.append(f" {'█' * round(_BAR * cell.bar):<{_BAR}}", style=STYLES[column.tone] or "yellow")
    return text


def _cards(block: Cards) -> RenderableType | None:
    """Pictures side by side, or texts below one another; feature rows are left to the page. What is said of
    an entry at length stands without its picture."""
    entries = block.entries[: block.shown]
    if not entries:
        return Text(block.empty, style="dim") if block.empty else None
    if block.dense:
        return Group(*(_on_one_line(entry) for entry in entries))
    if any(entry.wide for entry in entries):
        whole = [line for entry in entries for line in _at_length(entry)]
        return Group(*(whole[:-1] if entries[-1].blocks else whole))
    pictures = [entry.card for entry in entries]
    if all(card.image is not None for card in pictures):
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_row(*(block_picture(one.image, one.scale) for one in pictures if one.image is not None))
        grid.add_row(*(_caption(entry) for entry in entries))
        return grid
    if all(entry.card.text is not None for entry in entries):
        lines: list[RenderableType] = []
        for entry in entries:
            text = " ".join((entry.card.text or "").split())
            lines += [_caption(entry), Text(text, style="dim", no_wrap=True, overflow="ellipsis")]
        return Group(*lines)
    return None


def _at_length(entry: Shown) -> list[RenderableType]:
    rest = [
        f"{entry.words} Not resolved: {entry.doubt}." if entry.doubt else entry.words,
        " · ".join(f"{name} {value}" for name, value in entry.lines),
    ]
    lines: list[RenderableType] = [_caption(entry, whole=True)]
    if entry.blocks and entry.card.image is not None:
        lines.insert(0, block_picture(entry.card.image, entry.card.scale))
    lines += (Text(one_line(line), style="dim") for line in rest if line)
    return [*lines, *_all(entry.blocks), Text()] if entry.blocks else lines


def _on_one_line(entry: Shown) -> Text:
    label = "" if entry.card.label is None else f"{one_line(entry.card.label)} "
    words = f" {one_line(entry.words)}{'?' if entry.doubt else ''}" if entry.words else ""
    return Text(label, style="bold").append(_caption(entry, whole=True)).append(words, style="dim")


def _caption(entry: Shown, *, whole: bool = False) -> Text:
    """Its title and what is said of it; below a picture, names are cut."""
    words = Text(f"{one_line(entry.card.title)}: " if entry.caption else one_line(entry.card.title))
    runs: Sequence[tuple[str, Any]] = entry.caption
    for k, (text, tone) in enumerate(runs):
        shown = one_line(text) if whole else short(text, _WIDEST)
        words.append(f"{' ' if k else ''}{shown}", style=STYLES[tone])
    return words
