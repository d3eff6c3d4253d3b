"""What `wherefrom labels` prints: readable at 80 columns, with or without colour."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from wherefrom.cli.console import short
from wherefrom.cli.labels import LabelsResult
from wherefrom.cli.terminal import picture
from wherefrom.report.labels_panel import ranked_by
from wherefrom.report.numbers import number
from wherefrom.studies.labels import PROPOSALS_RIGHT, Suspect

# Signs with a column of their own; the files have all.
_COLUMNS = {
    "loss": "loss",
    "left_out_loss": "left out",
    "self_influence": "self-infl.",
    "harm": "harm",
    "relabel": "relabel",
}
_PICTURES = 3
_WIDEST = 10


def print_labels(console: Console, result: LabelsResult) -> None:
    """The most suspicious labels, the first of them as pictures or texts, and what the columns mean."""
    audit = result.audit
    suspects = audit.top(result.top, result.by)
    console.print()
    console.rule(Text(result.task.name, style="bold"), align="left", style="dim")
    console.print(_found(result))
    console.print()
    shown = _shown(result, suspects[:_PICTURES])
    if shown is not None:
        console.print(shown)
        console.print()
    console.print(_table(suspects, list(audit.signals)))
    console.print(_notes(result))


def _found(result: LabelsResult) -> Text:
    audit = result.audit
    moved = int((audit.proposed != audit.given).sum())
    of = "" if len(audit) == audit.n else f" (of {audit.n:,}, those of largest loss)"
    words = Text.assemble(
        ("Labels to check. ", "bold"),
        f"{len(audit):,} training examples looked at{of}; without having seen it, the model would label "
        f"{moved:,} otherwise. Ranked by {ranked_by(result.by, audit.ranking)}.",
    )
    if not audit.converged:
        words.append(" Some solves did NOT converge.", style="bold red")
    words.append("\n").append(audit.wrong.words)
    return words


def _shown(result: LabelsResult, suspects: list[Suspect]) -> RenderableType | None:
    """Pictures side by side, or texts below one another."""
    cards = [result.card(suspect.train) for suspect in suspects]
    if all(card.image is not None for card in cards):
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(*(picture(card.image) for card in cards if card.image is not None))
        grid.add_row(*(_caption(suspect) for suspect in suspects))
        return grid
    if all(card.text is not None for card in cards):
        lines: list[RenderableType] = []
        for card, suspect in zip(cards, suspects):
            text = " ".join((card.text or "").split())
            lines += [_caption(suspect), Text(text, style="dim", no_wrap=True, overflow="ellipsis")]
        return Group(*lines)
    return None


def _caption(suspect: Suspect) -> Text:
    words = Text.assemble(f"train {suspect.train}: ", (short(suspect.given, _WIDEST), "bold"))
    if not suspect.kept:
        words.append(", perhaps ", style="dim").append(short(suspect.proposed, _WIDEST))
    return words


def _table(suspects: list[Suspect], signals: list[str]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("train", justify="right", no_wrap=True)
    for name in ("label", "proposed"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    columns = [name for name in _COLUMNS if name in signals]
    for name in columns:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    for suspect in suspects:
        table.add_row(
            Text(str(suspect.rank), style="dim"),
            Text(str(suspect.train)),
            Text(short(suspect.given, _WIDEST), style="bold"),
            Text("keep", style="dim") if suspect.kept else Text(short(suspect.proposed, _WIDEST)),
            *(Text(number(suspect.signals[name], 2, sign=name in ("harm", "relabel"))) for name in columns),
        )
    return table


def _notes(result: LabelsResult) -> Text:
    audit = result.audit
    lines = [
        "proposed: the class the model would give without the example. " + PROPOSALS_RIGHT,
        "left out: loss predicted for the model trained without the example",
    ]
    if "harm" in audit.signals:
        lines.append("harm, relabel: predicted fall of the mean validation loss if it is removed, or")
        lines.append("given the label that helps most")
    else:
        lines.append("no validation examples: harm and the gain by relabelling are left out")
    return Text("\n".join(lines), style="dim")
