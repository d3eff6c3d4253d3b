"""One self-contained page that shows where predictions came from."""

from wherefrom.report.blocks import (
    Beside,
    Cards,
    Cell,
    Chart,
    Column,
    Columns,
    Facts,
    PageBlock,
    Section,
    Shown,
    Table,
    Verdict,
    Verdicts,
    View,
    Words,
)
from wherefrom.report.build import build_section, write_page
from wherefrom.report.cards import Card, merge_card
from wherefrom.report.describe import Describe, Describer
from wherefrom.report.page import DEFAULT_TITLE, audit_section, render_report, write_report
from wherefrom.report.sections import ReportSection
from wherefrom.report.study_page import render_view, section_html, write_view
from wherefrom.report.terminal import print_section
from wherefrom.report.verdicts import verdicts

__all__ = [
    "DEFAULT_TITLE",
    "Beside",
    "Card",
    "Cards",
    "Cell",
    "Chart",
    "Column",
    "Columns",
    "Describe",
    "Describer",
    "Facts",
    "PageBlock",
    "ReportSection",
    "Section",
    "Shown",
    "Table",
    "Verdict",
    "Verdicts",
    "View",
    "Words",
    "audit_section",
    "build_section",
    "merge_card",
    "print_section",
    "render_report",
    "render_view",
    "section_html",
    "verdicts",
    "write_page",
    "write_report",
    "write_view",
]
