"""The panel about labels: the most suspicious examples as cards, and how far the signs agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from wherefrom.report.cards import Card
from wherefrom.report.numbers import number
from wherefrom.report.panels import Panel
from wherefrom.report.view import card_view
from wherefrom.studies.labels import COMBINED, PROPOSALS_RIGHT, Agreement, LabelAudit, Ranking, Suspect

# What people read for the names of the code.
WORDS = {
    COMBINED: "all signs together",
    "loss": "loss",
    "margin": "margin",
    "left_out_loss": "loss when left out",
    "left_out_margin": "margin when left out",
    "self_influence": "self-influence",
    "harm": "harm to validation",
    "relative_harm": "relative harm",
    "relabel": "gain by relabelling",
}
# Signs written on a card; the table of files has all.
ON_CARDS = ("loss", "left_out_loss", "self_influence", "harm", "relabel")


def labels_panel(
    audit: LabelAudit, card: Callable[[int], Card], *, top: int = 12, by: str = COMBINED
) -> Panel:
    """The `top` most suspicious labels, each with the label proposed for it, and how many are wrong in all.

    Args:
        audit: of the training labels.
        card: from a training index to what people see of it.
        top: examples shown.
        by: the sign they are ranked by; all together by default.

    Raises:
        InputError: `top` below 1, or no such sign.
    """
    suspects = audit.top(top, by)
    moved = int((audit.proposed != audit.given).sum())
    return Panel.from_template(
        "Labels to check",
        "labels.html.j2",
        ranked_by=ranked_by(by, audit.ranking),
        wrong=audit.wrong,
        proposals_right=PROPOSALS_RIGHT,
        looked_at=f"{len(audit):,}",
        all_examples=None if len(audit) == audit.n else f"{audit.n:,}",
        moved=f"{moved:,}",
        validation=audit.settings.get("validation", 0),
        held=audit.settings.get("left_out_held", 0),
        converged=audit.converged,
        suspects=[_entry(suspect, card(suspect.train)) for suspect in suspects],
        agreement=_agreement(audit.agreement()),
    )


def ranked_by(by: str, ranking: Ranking) -> str:
    """What a ranking goes by, in words; of the default one also the sign that leads it."""
    words = WORDS.get(by, by)
    return f"{words} (the {WORDS[ranking.by]} leads)" if by == COMBINED else words


def _entry(suspect: Suspect, card: Card) -> dict[str, Any]:
    return {
        "card": card_view(card),
        "rank": suspect.rank,
        "given": suspect.given,
        "proposed": None if suspect.kept else suspect.proposed,
        "signs": [
            (WORDS[name], number(suspect.signals[name], 3, sign=name in ("harm", "relabel")))
            for name in ON_CARDS
            if name in suspect.signals
        ],
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    count = range(len(found.names))

    def cell(a: int, b: int) -> dict[str, Any] | None:
        if a == b:
            return None
        value = float((found.spearman if a < b else found.overlap)[a, b])
        if math.isnan(value):
            return {"text": "–", "shade": 0}
        return {"text": f"{value:.2f}".replace("-", "−"), "shade": round(55 * max(0.0, value))}

    heads = [WORDS.get(name, name) for name in found.names]
    rows = [{"name": heads[a], "cells": [cell(a, b) for b in count]} for a in count]
    return {"k": f"{found.k:,}", "heads": heads, "rows": rows}
