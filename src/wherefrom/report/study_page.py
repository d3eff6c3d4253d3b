"""The page of a study, and the piece of it that a notebook shows: HTML that loads nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wherefrom.errors import InputError
from wherefrom.report.blocks import Beside, Cards, Cell, Chart, PageBlock, Section, Shown, Table, View
from wherefrom.report.card_view import card_view
from wherefrom.report.environment import template_environment
from wherefrom.store import write_atomically


def render_view(view: View) -> str:
    """The page as text.

    Raises:
        InputError: no section, or two of the same name.
    """
    names = [section.name for section in view.sections]
    if not names:
        raise InputError("sections is empty: expected at least one Section")
    if len(set(names)) != len(names):
        raise InputError(f"sections are named {names}: expected different names")
    template = template_environment().get_template("study.html.j2")
    shown = dataclasses.replace(view, sections=[_section(one) for one in view.sections])
    return template.render(view=shown, several=len(names) > 1)


def write_view(path: str | Path, view: View) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises:
        InputError: as `render_view`.
        StoreError: the file cannot be written.
    """
    path = Path(path)
    write_atomically(path, render_view(view))
    return path


def section_html(section: Section) -> str:
    """A section for a notebook, with the style of the page, which is kept to it."""
    environment = template_environment()
    macros: Any = environment.get_template("blocks.html.j2").module
    style = "".join(environment.get_template(name).render() for name in ("style.css", "blocks.css"))
    for outer in (":root {", "body {"):
        style = style.replace(outer, "& {")
    body = macros.body(_section(section))
    return f'<div class="wherefrom"><style>.wherefrom {{ {style} }}</style><section>{body}</section></div>'


def _section(section: Section) -> Section:
    return dataclasses.replace(section, blocks=_on_page(section.blocks))


def _on_page(blocks: Sequence[Any]) -> list[dict[str, Any]]:
    return [_plain(block) for block in blocks if getattr(block, "where", "page") != "terminal"]


def _plain(block: PageBlock) -> dict[str, Any]:
    """What the template reads of a block."""
    values = {one.name: getattr(block, one.name) for one in dataclasses.fields(block)}
    values["kind"] = type(block).__name__
    if isinstance(block, Cards):
        values["entries"] = [_shown(entry) for entry in block.entries]
    if isinstance(block, Beside):
        values["blocks"] = _on_page(block.blocks)
    if isinstance(block, Table):
        kept = [k for k, column in enumerate(block.columns) if column.where != "terminal"]
        values["columns"] = [block.columns[k] for k in kept]
        values["rows"] = [[_cell(row[k], block.columns[k]) for k in kept] for row in block.rows]
    if isinstance(block, Chart):
        template = template_environment().get_template(block.template)
        values["svg"] = Markup(template.render(**block.values))
    return values


def _shown(entry: Shown) -> dict[str, Any]:
    made = {"card": card_view(entry.card), "blocks": _on_page(entry.blocks)}
    return {**vars(entry), **made, "wide": entry.wide}


def _cell(value: str | Cell, column: Any) -> dict[str, Any]:
    cell = value if isinstance(value, Cell) else Cell(value)
    return {**vars(cell), "column": column, "card": None if cell.card is None else card_view(cell.card)}
