"""Panels stand on a page of their own or in a model's section; what users wrote in them stays text."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from tests.report.report_results import section
from wherefrom.errors import InputError
from wherefrom.report import Panel, render_panels, render_report, write_panels


def test_a_page_of_panels_is_complete_in_itself(tmp_path):
    panels = [
        Panel("First <b>", Markup("<p>one</p>"), Markup(".one { color: red; }")),
        Panel("Second", Markup("two")),
    ]
    path = write_panels(tmp_path / "page.html", panels, "Which & why?", "A <lead>.")
    page = path.read_text(encoding="utf-8")
    assert "First &lt;b&gt;" in page and "<p>one</p>" in page and ".one { color: red; }" in page
    assert "Which &amp; why?" in page and "A &lt;lead&gt;." in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_a_section_shows_its_panels():
    page = render_report([section(panels=[Panel("Extra", Markup("<p>inside</p>"), Markup(".x {}"))])])
    assert page.index("Extra") < page.index("<p>inside</p>") < page.index("How to read this")
    assert page.index(".x {}") < page.index("</style>")


def test_a_page_without_panels_is_refused():
    with pytest.raises(InputError, match="panels is empty"):
        render_panels([], "Nothing")
