"""One self-contained page that shows where predictions came from."""

from whence.report.build import build_section
from whence.report.cards import Card, merge_card
from whence.report.describe import Describe, Describer
from whence.report.page import DEFAULT_TITLE, render_report, write_report
from whence.report.panels import Panel, render_panels, write_panels
from whence.report.sections import ReportSection
from whence.report.verdicts import Verdict, verdicts

__all__ = [
    "DEFAULT_TITLE",
    "Card",
    "Describe",
    "Describer",
    "Panel",
    "ReportSection",
    "Verdict",
    "build_section",
    "merge_card",
    "render_panels",
    "render_report",
    "verdicts",
    "write_panels",
    "write_report",
]
