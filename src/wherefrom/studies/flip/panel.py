"""The panel about flips: how robust the predictions are, and the sets that carry the weakest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wherefrom.interventions import FlipSet, Robustness
from wherefrom.percentages import percentage
from wherefrom.report.card_view import card_view
from wherefrom.report.cards import Card
from wherefrom.report.numbers import number, percent
from wherefrom.report.panels import Panel

# Training examples shown of each set.
_SHOWN = 8


def flip_panel(
    sets: Sequence[FlipSet],
    robustness: Robustness,
    train_card: Callable[[int], Card],
    query_card: Callable[[int], Card],
    *,
    order: str,
    most: int,
    found: int,
    class_names: Sequence[str] | None = None,
) -> Panel:
    """The robustness figure, and each of these queries beside the set it rests on.

    Args:
        sets: the queries shown, in order.
        robustness: over all queries.
        train_card, query_card: from an index to what people see of an example.
        order: how the sets were found, `"first"` or `"newton"`.
        most: largest set looked for.
        found: queries for which there was a set.
        class_names: names of the classes.
    """
    return Panel.from_template(
        "How little it takes",
        "flip.html.j2",
        words=robustness.words,
        shares=_shares(robustness),
        confirmed=robustness.confirmed is not None,
        sets=[_entry(one, train_card, query_card, class_names) for one in sets],
        newton=order == "newton",
        most=f"{most:,}",
        n=f"{robustness.n:,}",
        found=found,
        queries=robustness.queries,
    )


def outcome_words(one: FlipSet) -> tuple[str, str]:
    """What retraining said of a set: a level (`"confirmed"`, `"enlarged"`, `"kept"`, `"unstable"`,
    `"unasked"`) and a few words."""
    check = one.confirmation
    if check is None:
        return "unasked", "not asked"
    if not check.stable:
        return "unstable", "differs anyway"
    if check.hidden:
        return "unstable", "cannot tell"
    if check.size is None:
        return "kept", "no run converged" if len(check.failed) == len(check.tried) else "not flipped"
    if check.size == one.size:
        return "confirmed", "flipped"
    return "enlarged", f"flipped by {check.size:,}"


def _shares(found: Robustness) -> list[dict[str, Any]]:
    confirmed = found.confirmed or (None,) * len(found.shares)
    return [
        {
            "share": f"{100 * share:g} %",
            "examples": f"{int(share * found.n * (1 + 1e-12)):,}",
            "predicted": percent(predicted),
            "confirmed": None if sure is None else percent(sure),
            "predicted_width": round(100 * predicted, 1),
            "confirmed_width": 0 if sure is None else round(100 * sure, 1),
        }
        for share, predicted, sure in zip(found.shares, found.predicted, confirmed)
    ]


def _entry(
    one: FlipSet,
    train_card: Callable[[int], Card],
    query_card: Callable[[int], Card],
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    card = query_card(one.query)
    level, outcome = outcome_words(one)
    shown = one.indices[:_SHOWN]
    return {
        "card": card_view(card),
        "predicted": one.name(one.predicted, class_names),
        "rival": one.name(one.rival, class_names),
        "size": f"{one.size:,}",
        "share": percentage(one.share or 0.0),
        "level": level,
        "outcome": outcome,
        "words": one.describe(class_names),
        "margin": number(one.margin, 3),
        "after": number(one.margin_after, 3),
        "first": "more" if one.first_size is None else f"{one.first_size:,}",
        "retrained": None
        if one.confirmation is None or one.confirmation.margin is None
        else number(one.confirmation.margin, 3),
        "members": [card_view(train_card(i)) for i in shown],
        "more": len(one.indices) - len(shown),
    }
