"""The templates of the page."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wherefrom.plain_text import visible


def template_environment() -> Environment:
    """Templates with everything a user names (labels, texts, parameters) as data: escaped, whatever it looks
    like, its control characters written out."""
    return Environment(
        loader=PackageLoader("wherefrom.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
