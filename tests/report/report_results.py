"""Results with numbers chosen by hand, so that a page can be checked against them."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch
from rich.console import Console

from wherefrom.evaluation import Verification
from wherefrom.influence import MinimumCheck, Scores, SelfScores, trust_without_fit
from wherefrom.report import Card, PageBlock, ReportSection, Section, View, print_section, render_view

VOID = {"meta", "link", "img", "br", "input", "hr"}


def scores(values: list[list[float]], *, error: float = 0.5, **changed: Any) -> Scores:
    matrix = torch.tensor(values, dtype=torch.float64)
    q = len(matrix)
    fields: dict[str, Any] = {
        "values": matrix,
        "error": torch.full_like(matrix, error),
        "bound": torch.full_like(matrix, 2 * error),
        "bound_proven": True,
        "converged": torch.ones(q, dtype=torch.bool),
        "reason": "",
        "relative_residual": torch.full((q,), 1e-3, dtype=torch.float64),
        "measurement": "loss",
        "settings": {
            "solver": "cg",
            "curvature": "ggn",
            "p": 7,
            "damping": 0.25,
            "parameters": ["head.weight"],
            "frozen": ["features.weight"],
            "unselected": [],
            "loss": {"loss": "cross_entropy", "label_smoothing": 0.125},
        },
    }
    return Scores(**{**fields, **changed})


def minimum(verdict: str = "minimum") -> MinimumCheck:
    return MinimumCheck(1e-4, 1.0, 1e-4, 0.3, 0.01, 2.0, verdict, f"The verdict: it is {verdict}.")


def verification(*, noise: float = 0.0, **changed: Any) -> Verification:
    predicted = changed.get("predicted", np.array([[0.4, -0.1], [0.2, 0.3], [-0.3, 0.05]]))
    fields: dict[str, Any] = {
        "removed": np.array([2, 0, 1]),
        "predicted": predicted,
        "actual": 1.1 * predicted,
        "noise": np.full(predicted.shape, noise),
        "seeds": (0, 1) if noise else (0,),
        "reduction": "mean",
        "baseline_gap": 0.0,
    }
    return Verification(**{**fields, **changed})


def self_scores() -> SelfScores:
    values = torch.tensor([3.0, 17.25, 5.0, 1.0], dtype=torch.float64)
    return SelfScores(
        index=torch.arange(4),
        values=values,
        error=torch.zeros_like(values),
        bound=torch.zeros_like(values),
        converged=torch.ones(4, dtype=torch.bool),
        reason="",
    )


def section(**changed: Any) -> ReportSection:
    pixels = np.arange(64.0).reshape(8, 8) / 63
    fields: dict[str, Any] = {
        "name": "A model",
        "scores": scores([[12.5, -7.75, 0.0, 1.0], [-2.0, -4.0, -6.0, -8.0]]),
        "minimum": minimum(),
        "train_card": lambda i: Card(f"train {i}", label=str(i % 3), image=pixels),
        "query_card": lambda q: Card(f"query {q}", "4", "9", 0.8125, pixels),
        "verification": verification(),
        "self_scores": self_scores(),
        "facts": [("Test accuracy", "94.5 %")],
    }
    return ReportSection(**{**fields, **changed})


def page_of(*blocks: PageBlock) -> str:
    """What a page has of these blocks, after how far to trust them."""
    whole = render_view(View("Q", "", [Section("model", trust_without_fit(), blocks)]))
    return " ".join(whole.partition("<main>")[2].partition("</div>")[2].split())


def terminal_of(*blocks: PageBlock) -> str:
    """The same in a terminal of 80 columns."""
    console = Console(width=80, record=True, file=io.StringIO())
    print_section(console, Section("model", trust_without_fit(), blocks))
    return console.export_text()


class Page(HTMLParser):
    """Elements, visible text, and whether every tag that opens is closed in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, **wanted: str) -> int:
        return sum(
            name == tag and all(attributes.get(key.strip("_")) == value for key, value in wanted.items())
            for name, attributes in self.elements
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        # The title of the document is no part of the page; the title of a dot is what hovering shows.
        if self.open and self.open[-1] != "style" and self.open[-2:] != ["head", "title"]:
            self.texts.append(data)
