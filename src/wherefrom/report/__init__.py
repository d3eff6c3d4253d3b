"""One self-contained page that shows where predictions came from."""

from wherefrom.report.build import build_section, write_page
from wherefrom.report.cards import Card, merge_card
from wherefrom.report.describe import Describe, Describer
from wherefrom.report.page import DEFAULT_TITLE, render_report, write_report
from wherefrom.report.panels import Panel, render_panels, write_panels
from wherefrom.report.sections import ReportSection
from wherefrom.report.verdicts import Verdict, verdicts

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
    "write_page",
    "write_panels",
    "write_report",
]
