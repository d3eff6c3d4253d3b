"""The page itself: one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wherefrom.errors import InputError
from wherefrom.report.environment import template_environment
from wherefrom.report.sections import ReportSection
from wherefrom.report.view import section_view
from wherefrom.store import write_atomically

DEFAULT_TITLE = "Where did these predictions come from?"


def render_report(sections: Sequence[ReportSection], title: str = DEFAULT_TITLE) -> str:
    """The page as text.

    Args:
        sections: one per model; several are shown one at a time, with a switch.
        title: the question at the head of the page.

    Raises:
        InputError: no section, or two of the same name.
    """
    if not sections:
        raise InputError("sections is empty: expected at least one ReportSection")
    names = [section.name for section in sections]
    if len(set(names)) != len(names):
        raise InputError(f"sections are named {names}: expected different names")
    template = template_environment().get_template("page.html.j2")
    return template.render(
        title=title, sections=[section_view(section, i) for i, section in enumerate(sections)]
    )


def write_report(path: str | Path, sections: Sequence[ReportSection], title: str = DEFAULT_TITLE) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises:
        InputError: no section, or two of the same name.
        StoreError: the file cannot be written.
    """
    path = Path(path)
    write_atomically(path, render_report(sections, title))
    return path
