"""What `wherefrom flip` shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wherefrom.interventions import FlipSet
from wherefrom.plain_text import short
from wherefrom.report.numbers import number, percent
from wherefrom.studies.flip.panel import outcome_words

_WIDEST = 10
_SHOWN = 8
_LEVELS = {"confirmed": "green", "enlarged": "yellow", "kept": "red", "unstable": "yellow", "unasked": "dim"}


def printed(result: Any) -> RenderableType:
    """The robustness figure, and the predictions that fall to the fewest examples."""
    lines: list[RenderableType] = []
    lines.append(Text(result.robustness.words))
    lines.append(Text())
    lines.append(_shares(result))
    lines.append(Text())
    smallest = result.smallest()
    if not smallest:
        lines.append(
            Text(
                f"No set of up to {result.flips.most:,} training examples is predicted to flip one of these "
                "predictions. Look further with a larger --max-share."
            )
        )
        return Group(*lines)
    lines.append(_table(result, smallest))
    first = smallest[0]
    shown = ", ".join(str(i) for i in first.indices[:_SHOWN])
    more = f" and {len(first.indices) - _SHOWN} more" if len(first.indices) > _SHOWN else ""
    lines.append(Text())
    examples = "example" if len(first.indices) == 1 else "examples"
    lines.append(
        Text(f"query {result.numbers[first.query]} rests on training {examples} {shown}{more}.", style="dim")
    )
    notes = ["margin: logit of the prediction minus that of its closest rival"]
    if result.flips.order == "newton":
        notes += [
            "single scores: the size that adding them up says",
            "size: by refits of the linear model after each candidate set",
        ]
    lines.append(Text("\n".join(notes), style="dim"))
    return Group(*lines)


def _shares(result: Any) -> Table:
    found = result.robustness
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in ("removed", "examples", "predicted to fall", "confirmed"):
        table.add_column(name, justify="right", no_wrap=True)
    for j, share in enumerate(found.shares):
        most = int(share * found.n * (1 + 1e-12))
        table.add_row(
            f"≤ {100 * share:g} %",
            f"{most:,}",
            percent(found.predicted[j]),
            "–" if found.confirmed is None else percent(found.confirmed[j]),
        )
    return table


def _table(result: Any, smallest: list[FlipSet]) -> Table:
    names = result.class_names
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("query", justify="right", no_wrap=True)
    table.add_column("predicted", no_wrap=True)
    table.add_column("turns to", no_wrap=True)
    newton = result.flips.order == "newton"
    for name in ("margin", *(("single scores",) if newton else ()), "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("retrained", no_wrap=True)
    for one in smallest:
        level, words = outcome_words(one)
        table.add_row(
            str(result.numbers[one.query]),
            Text(short(one.name(one.predicted, names), _WIDEST)),
            Text(short(one.name(one.rival, names), _WIDEST), style="cyan"),
            number(one.margin, 3),
            *(["–" if one.first_size is None else f"{one.first_size:,}"] if newton else []),
            Text(f"{one.size:,}", style="bold"),
            Text(words, style=_LEVELS[level]),
        )
    return table
