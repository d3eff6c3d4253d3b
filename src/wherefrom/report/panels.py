"""Blocks of the page that stand for themselves: made from a template of their own, shown in a model's
section or on a page of panels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import RenderableType

from wherefrom.errors import InputError
from wherefrom.influence import Trust
from wherefrom.report.environment import template_environment
from wherefrom.store import write_atomically


@dataclass(frozen=True)
class Panel:
    """One block of a page.

    Attributes:
        title: its heading.
        body: its content as HTML, escaped where it came from users.
        style: CSS of its own.
        printed: what a terminal shows of it; `None` for nothing.
    """

    title: str
    body: Markup
    style: Markup = field(default_factory=Markup)
    printed: RenderableType | None = None

    @classmethod
    def from_template(cls, title: str, template: str, **values: Any) -> Panel:
        """A panel whose content is a template of `wherefrom.report`, and whose style is the file of the same
        name that ends in `.css`, where there is one.

        Args:
            title: the heading.
            template: its name, such as `"labels.html.j2"`; `macros.html.j2` has the macros for cards.
            values: what the template names; texts are escaped.
        """
        environment = template_environment()
        body = Markup(environment.get_template(template).render(**values))
        sheet = template.replace(".html.j2", ".css")
        style = environment.get_template(sheet).render() if sheet in environment.list_templates() else ""
        return cls(title, body, Markup(style))


def render_panels(panels: Sequence[Panel], title: str, lead: str = "", trust: Trust | None = None) -> str:
    """A page of panels as text.

    Args:
        panels: in order.
        title: the question at the head of the page.
        lead: a sentence or two below it.
        trust: how far the predictions of the page may be trusted; said at its head.

    Raises:
        InputError: no panel.
    """
    if not panels:
        raise InputError("panels is empty: expected at least one Panel")
    template = template_environment().get_template("panels.html.j2")
    return template.render(panels=panels, title=title, lead=lead, trust=trust)


def write_panels(
    path: str | Path,
    panels: Sequence[Panel],
    title: str,
    lead: str = "",
    trust: Trust | None = None,
) -> Path:
    """Write a page of panels, whole or not at all, and return its path; arguments as for `render_panels`.

    Raises:
        InputError: no panel.
        StoreError: the file cannot be written.
    """
    path = Path(path)
    write_atomically(path, render_panels(panels, title, lead, trust))
    return path
