"""The page about scores: sections of a view, made of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wherefrom.influence import Trust
from wherefrom.report.blocks import Section, View
from wherefrom.report.score_blocks import score_blocks, score_facts
from wherefrom.report.sections import ReportSection
from wherefrom.report.study_page import render_view, write_view

DEFAULT_TITLE = "Where did these predictions come from?"
LEAD = (
    "For each prediction below: the training examples that made it likelier to be right, and those that made "
    "it likelier to be wrong, with an error beside each score and the answer of retraining."
)


def audit_section(section: ReportSection, trust: Trust) -> Section:
    """Scores of one model as a section of a page.

    Args:
        section: the results.
        trust: stands at its head.
    """
    return Section(section.name, trust, score_blocks(section), score_facts(section))


def render_report(sections: Sequence[ReportSection], title: str = DEFAULT_TITLE) -> str:
    """The page as text.

    Args:
        sections: one per model; several are shown one at a time, with a switch.
        title: the question at the head of the page.

    Raises:
        InputError: no section, or two of the same name.
    """
    return render_view(_view(sections, title))


def write_report(path: str | Path, sections: Sequence[ReportSection], title: str = DEFAULT_TITLE) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises:
        InputError: no section, or two of the same name.
        StoreError: the file cannot be written.
    """
    return write_view(path, _view(sections, title))


def _view(sections: Sequence[ReportSection], title: str) -> View:
    return View(title, LEAD, [audit_section(section, section.trust) for section in sections])
