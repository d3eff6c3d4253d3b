"""A card: what a reader sees of one example. Its content is guessed from the item's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from wherefrom.errors import InputError

# A matrix with a side below this is a table of numbers rather than a picture.
_SMALLEST_PICTURE = 4
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Card:
    """One example as people see it.

    Attributes:
        title: names the example (`"train 17"`); given by its index when empty.
        label: its true label or value.
        predicted: what the model says.
        probability: of the prediction, in `[0, 1]`.
        image: `(h, w)`, `(c, h, w)` or `(h, w, c)` with one, three or four channels; bytes are
            0..255, other numbers are shown as they are in `[0, 1]` and by `scale` otherwise.
        scale: the values shown as black and as white, the same for all pictures of a data set; `None` for
            bytes, for pictures in `[0, 1]`, and for one that is stretched by itself.
        text: running text.
        rows: features, `(name, value)`.
    """

    title: str = ""
    label: str | None = None
    predicted: str | None = None
    probability: float | None = None
    image: np.ndarray | None = None
    text: str | None = None
    rows: Sequence[tuple[str, Any]] = ()
    scale: tuple[float, float] | None = None

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is the label; `None` if either is unknown."""
        return None if self.label is None or self.predicted is None else self.label == self.predicted


def merge_card(default: Card, described: Any) -> Card:
    """What a user's `describe(i)` returned, over the default card.

    Args:
        default: label, prediction and guessed content.
        described: a `Card`, whose set fields win; a mapping of a card's fields (other keys become
            feature rows); or a text.

    Raises:
        InputError: anything else.
    """
    if isinstance(described, str):
        return replace(default, text=described, image=None, rows=())
    if isinstance(described, Mapping):
        described = _card_of(described)
    if not isinstance(described, Card):
        raise InputError(
            f"a describe function returned a {type(described).__name__}; expected a wherefrom.report.Card, a "
            "dict of its fields, or a text"
        )
    content = described.image is not None or described.text is not None or len(described.rows) > 0
    chosen = described if content else default
    return Card(
        title=described.title or default.title,
        label=default.label if described.label is None else described.label,
        predicted=default.predicted if described.predicted is None else described.predicted,
        probability=default.probability if described.probability is None else described.probability,
        image=chosen.image,
        text=chosen.text,
        rows=chosen.rows,
        scale=chosen.scale,
    )


def guess_content(item: Any, title: str, label: str | None) -> Card:
    """A card for raw inputs: texts as they are, pictures by their shape, all else as feature rows."""
    if isinstance(item, str):
        return Card(title, label, text=item)
    if isinstance(item, Mapping):
        texts = [value for value in item.values() if isinstance(value, str)]
        if texts:
            return Card(title, label, text="\n".join(texts))
        return Card(title, label, rows=[(str(name), _brief(value)) for name, value in item.items()])
    if (
        isinstance(item, (tuple, list))
        and item
        and not all(isinstance(value, (int, float)) for value in item)
    ):
        return guess_content(item[0], title, label)
    array = _as_array(item)
    if is_image(array):
        return Card(title, label, image=array)
    if array.dtype == object:
        return Card(title, label, text=str(item))
    return Card(
        title, label, rows=[(f"x{j}", float(value)) for j, value in enumerate(array.reshape(-1)[:64])]
    )


def is_image(array: np.ndarray) -> bool:
    """Whether an array looks like a picture: `(h, w)` or with one, three or four channels first or last."""
    if array.dtype == object:
        return False
    if array.ndim == 3:
        sides = array.shape[1:] if array.shape[0] in _CHANNELS else array.shape[:2]
        channels = array.shape[0] in _CHANNELS or array.shape[2] in _CHANNELS
        return channels and min(sides) >= _SMALLEST_PICTURE
    return array.ndim == 2 and min(array.shape) >= _SMALLEST_PICTURE


def _card_of(described: Mapping[str, Any]) -> Card:
    """A card from a user's dict: labels may be numbers, pictures tensors, and other keys are features."""
    rows = described.get("rows", ())
    listed = rows.items() if isinstance(rows, Mapping) else rows
    others = {key: value for key, value in described.items() if key not in Card.__dataclass_fields__}
    label, predicted = (
        None if described.get(key) is None else str(described[key]) for key in ("label", "predicted")
    )
    return Card(
        title=str(described.get("title", "")),
        label=label,
        predicted=predicted,
        probability=None if described.get("probability") is None else float(described["probability"]),
        image=None if described.get("image") is None else _as_array(described["image"]),
        text=described.get("text"),
        rows=[(str(name), value) for name, value in [*listed, *others.items()]],
    )


def _as_array(value: Any) -> np.ndarray:
    return value.detach().cpu().float().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _brief(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        array = _as_array(value)
        if array.size == 1:
            return float(array.reshape(-1)[0])
        shown = ", ".join(f"{entry:.4g}" for entry in array.reshape(-1)[:8].tolist())
        return f"{shown}{', …' if array.size > 8 else ''}"
    return value
