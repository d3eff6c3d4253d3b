"""What the answer of a study is made of: page, terminal and notebook read the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wherefrom.influence import Trust
from wherefrom.report.cards import Card

Tone = Literal["", "strong", "muted", "helpful", "harmful", "good", "fair", "poor"]
Where = Literal["everywhere", "page", "terminal"]


@dataclass(frozen=True)
class PageBlock:
    """One piece of an answer.

    Attributes:
        heading: above it; a new part of the page begins with one.
        where: shown on the page (and in notebooks), in the terminal, or in both.
        folded: the page shows these words, and the block when they are clicked.
    """

    heading: str = field(default="", kw_only=True)
    where: Where = field(default="everywhere", kw_only=True)
    folded: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Words(PageBlock):
    """A paragraph.

    Attributes:
        text: plain text.
        lead: its first words, in bold.
        tone: of all of it.
    """

    text: str
    lead: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Columns(PageBlock):
    """Explanations side by side where there is room: `(lead, text)`."""

    notes: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Facts(PageBlock):
    """Names with their values: `(name, value)`."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Beside(PageBlock):
    """Blocks side by side where there is room, and below one another where there is none."""

    blocks: Sequence[PageBlock]


@dataclass(frozen=True)
class Verdict:
    """An answer: `level` is `"good"`, `"fair"`, `"poor"` or `"none"` (not checked).

    Attributes:
        question, answer, words: what was asked, the answer in a word, and why.
        numbers: `(name, value)` behind it.
        reasons: sentences of its own level each, `(level, sentence)`.
    """

    question: str
    level: str
    answer: str
    words: str
    numbers: tuple[tuple[str, str], ...] = ()
    reasons: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Verdicts(PageBlock):
    """Questions with their answers, side by side."""

    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: as it is shown.
        tone: its colour.
        bar: a share in `[0, 1]` drawn beside it; in `[-1, 1]` where the column is `signed`.
        note: smaller words below it; the page's alone.
        card: an example, small beside the text; the page's alone.
        doubt: why neither size nor sign of a number is to be read; it then stands in grey, with a question
            mark in the terminal.
        shade: how much of its tone the page puts behind it, in `[0, 1]`: a heat map. Its doubt is then said
            when one points at it.
        hint: what the page says when one points at it.
    """

    text: str
    tone: Tone = ""
    bar: float | None = None
    note: str = ""
    card: Card | None = None
    doubt: str = ""
    shade: float | None = None
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """Of a table.

    Attributes:
        name: its head.
        left: texts stand to the left, numbers to the right.
        width: characters in the terminal, at most.
        where: a column may be too much for a terminal.
        code: names of things in code.
        tone: of its bars.
        signed: its bars go to either side of zero.
        note: smaller words below its name; the page's alone.
    """

    name: str
    left: bool = False
    width: int | None = None
    where: Where = "everywhere"
    code: bool = False
    tone: Tone = ""
    signed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table(PageBlock):
    """Rows of cells.

    Attributes:
        columns: the heads.
        rows: texts or cells, one for each column.
        note: below it, what the columns mean.
        shown: rows in the terminal; the rest is in the files.
        file: which file has all rows.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    shown: int = 12
    file: str = ""


@dataclass(frozen=True)
class Shown:
    """A card with what is said of it.

    Attributes:
        card: the example.
        caption: one line: what the answer says of it, as runs of `(text, tone)`.
        lines: `(name, value)`.
        rank: its place in a ranking.
        share: a bar in `[0, 1]` below it.
        tone: of the bar.
        words: a sentence or two; it then takes the whole width.
        blocks: what belongs to it, beside it; likewise.
        hint: what the page says when one points at its caption.
        doubt: why the number in its words is not to be read; they then stand in grey, with a question mark in
            the terminal.
    """

    card: Card
    caption: Sequence[tuple[str, Tone]] = ()
    lines: Sequence[tuple[str, str]] = ()
    rank: int | None = None
    share: float | None = None
    tone: Tone = ""
    words: str = ""
    blocks: Sequence[PageBlock] = ()
    hint: str = ""
    doubt: str = ""

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width."""
        return bool(self.words or self.blocks)


@dataclass(frozen=True)
class Cards(PageBlock):
    """Examples as people see them.

    Attributes:
        entries: in order.
        shown: in the terminal.
        empty: said where there are none.
        dense: small ones, many in a row, whatever is said of them.
    """

    entries: Sequence[Shown]
    shown: int = 3
    empty: str = ""
    dense: bool = False


@dataclass(frozen=True)
class Chart(PageBlock):
    """A picture for the page.

    Attributes:
        template: of `report/templates`, or a full path, that draws it as SVG.
        values: what the template names.
        caption: what it shows, in words; the terminal says this.
        keys: what its colours mean, `(words, tone)`; the page's alone.
    """

    template: str
    values: dict[str, Any]
    caption: str = ""
    keys: Sequence[tuple[str, Tone]] = ()


@dataclass(frozen=True)
class Section:
    """The answer for one model.

    Attributes:
        name: of the model.
        trust: how far to trust it; stands at its head wherever it is shown.
        blocks: in order.
        facts: `(name, value)` at the head.
    """

    name: str
    trust: Trust
    blocks: Sequence[Any]
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class View:
    """A page: a question, and the answer for one model or several.

    Attributes:
        title: the question.
        lead: a sentence or two below it.
        sections: one per model.
    """

    title: str
    lead: str
    sections: Sequence[Section]
