"""The panel about a change of the training data: what is predicted for each query, and what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wherefrom.interventions import Change, Outcome
from wherefrom.percentages import percentage
from wherefrom.report.card_view import card_view
from wherefrom.report.cards import Card
from wherefrom.report.charts import Dot, Scatter, Tick, nice_ticks
from wherefrom.report.numbers import number
from wherefrom.report.panels import Panel

_SIZE = 340.0
_ORDERS = {
    "first": "to first order",
    "second": "to second order",
    "newton": "by one Newton step",
    "optimum": "by steps to the new optimum",
}


def change_panel(
    change: Change,
    outcome: Outcome | None,
    before: np.ndarray,
    query_card: Callable[[int], Card],
    edited: Sequence[tuple[Card, str]],
    *,
    more: int = 0,
) -> Panel:
    """Each query's measurement, its predicted change and the actual one.

    Args:
        change: the prediction.
        outcome: the same with what retraining did, if it was asked.
        before: the measurement under the given model.
        query_card: from an index to what people see of the query.
        edited: training examples that change, and what is done to each.
        more: edited examples that are not among these.
    """
    cards = [query_card(q) for q in range(len(change))]
    titles = [card.title or f"query {q}" for q, card in enumerate(cards)]
    actual = None if outcome is None or not outcome.seeds else outcome.actual
    reach = float(np.abs(change.values.numpy()).max(initial=0.0))
    if actual is not None:
        reach = max(reach, float(np.abs(actual).max(initial=0.0)))
    words = change.words_done
    return Panel.from_template(
        words[:1].upper() + words[1:],
        "change.html.j2",
        measurement=change.measurement,
        order=_ORDERS[change.order],
        reduction=change.reduction,
        level=change.level,
        words=change.words,
        outcome=None if outcome is None else outcome.words,
        rows=[
            {
                "card": card_view(card),
                "title": titles[q],
                "before": number(float(before[q]), 3),
                "predicted": _bar(float(change.values[q]), reach),
                "reason": change.resolution(q).reason,
                "remaining": step_words(float(change.remaining[q]), float(change.values[q])),
                "actual": None if actual is None else _bar(float(actual[q]), reach),
            }
            for q, card in enumerate(cards)
        ],
        scatter=None if actual is None else _scatter(change, actual, np.nan_to_num(outcome.noise), titles),  # type: ignore[union-attr]
        noisy=outcome is not None and bool((outcome.noise > 0).any()),
        numbers=[] if actual is None else _numbers(outcome),
        edited=[{"card": card_view(card), "done": done} for card, done in edited],
        more=more,
    )


def step_words(remaining: float, value: float) -> str:
    """What one more step would add, or that it is nothing beside the prediction."""
    return "none" if abs(remaining) <= 1e-6 * abs(value) else number(remaining, 2, sign=True)


def _bar(value: float, reach: float) -> dict[str, Any]:
    """A number with a bar to the left or right of zero, in percent of half the width."""
    width = 50 * abs(value) / reach if reach > 0 else 0.0
    return {
        "text": number(value, 3, sign=True),
        "width": round(width, 1),
        "left": round(50 - width if value < 0 else 50.0, 1),
    }


def _numbers(outcome: Outcome | None) -> list[tuple[str, str]]:
    assert outcome is not None
    shown = [
        ("relative error", percentage(outcome.relative_error)),
        ("Pearson", number(outcome.pearson, 4)),
        ("slope", number(outcome.slope, 3)),
        ("seeds", str(len(outcome.seeds))),
    ]
    return [(name, text) for name, text in shown if text not in ("–", "nan %")]


def _scatter(change: Change, actual: np.ndarray, noise: np.ndarray, titles: Sequence[str]) -> Scatter:
    """Predicted against actual, a dot per query."""
    predicted = change.values.double().numpy()
    low = float(min(predicted.min(), (actual - noise).min(), 0.0))
    high = float(max(predicted.max(), (actual + noise).max(), 0.0))
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    unit = _SIZE / (high - low)
    ticks = nice_ticks(low, high, 5)
    dots = [
        Dot(
            (predicted[q] - low) * unit,
            _SIZE - (actual[q] - low) * unit,
            float(noise[q]) * unit,
            f"{title}: predicted {number(float(predicted[q]), sign=True)}, actual "
            f"{number(float(actual[q]), sign=True)}",
        )
        for q, title in enumerate(titles)
    ]
    return Scatter(
        _SIZE,
        dots,
        [Tick((t - low) * unit, number(t, 2)) for t in ticks],
        [Tick(_SIZE - (t - low) * unit, number(t, 2)) for t in ticks],
        0,
    )
