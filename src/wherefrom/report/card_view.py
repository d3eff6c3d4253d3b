"""A card as the templates read it: its picture as a data URI, its numbers as text."""

from __future__ import annotations

from typing import Any

from wherefrom.report.blocks import Tone
from wherefrom.report.cards import Card
from wherefrom.report.images import data_uri
from wherefrom.report.numbers import number, percent

# Feature rows shown at once; the rest unfolds.
_ROWS = 8


def card_view(card: Card) -> dict[str, Any]:
    """A card with its picture as a data URI and its numbers as text."""
    rows = [
        (str(name), number(value) if isinstance(value, float) else str(value)) for name, value in card.rows
    ]
    image = None if card.image is None else data_uri(card.image, card.scale)
    small = card.image is not None and max(card.image.shape) <= 64
    return {
        "title": card.title,
        "label": card.label,
        "predicted": card.predicted,
        "probability": None if card.probability is None else percent(card.probability),
        "correct": card.correct,
        "image": image,
        "pixelated": small,
        "text": card.text,
        "rows": rows[:_ROWS],
        "more_rows": rows[_ROWS:],
        "alt": f"{card.title}{'' if card.label is None else f', label {card.label}'}",
        "scale": "" if card.scale is None else scale_words(card.scale),
    }


def scale_words(scale: tuple[float, float]) -> str:
    """What black and white of the pictures stand for."""
    return f"black {number(scale[0], 3)}, white {number(scale[1], 3)}"


def predicted_runs(card: Card, first: str = "predicted") -> list[tuple[str, Tone]]:
    """What the model says of an example, right or wrong, and how surely; nothing where that is not known."""
    if card.predicted is None:
        return []
    tone: Tone = "strong" if card.correct is None else "good" if card.correct else "poor"
    runs: list[tuple[str, Tone]] = [(first, "muted"), (card.predicted, tone)]
    return runs if card.probability is None else [*runs, (f"with {percent(card.probability)}", "muted")]
