"""Text that comes from data, made harmless where it is shown."""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1) but for the tab and the end of a line; line separators; marks that reverse
# the direction of what follows; halves of surrogate pairs; invisible tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
# What makes a spreadsheet run the content of a cell, also as full-width characters.
_FORMULA = re.compile(r"[\s\u00a0\x00]*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def visible(text: str) -> str:
    """The text with every character that could steer a terminal or hide something written out, as `\\x1b`;
    ends of lines and tabs stay."""
    return _HIDDEN.sub(lambda found: _escape(found[0]), text)


def one_line(text: str) -> str:
    """`visible`, and on one line: for names and labels, which have no right to a line of their own."""
    return re.sub("[\n\t]", lambda found: _escape(found[0]), visible(text))


def no_formula(text: str) -> str:
    """The text of a table's cell, after an apostrophe where a spreadsheet would run it (OWASP, *CSV
    injection*); numbers stay numbers."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def short(text: str, width: int) -> str:
    """A name or label on one line, cut to so many characters."""
    line = one_line(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def count_of(count: int, what: str) -> str:
    """`"1 example"`, `"1,200 examples"`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
