"""The panel about poisoning: what share of predictions few edited training examples flip, and what the edits
look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wherefrom.report.card_view import card_view
from wherefrom.report.cards import Card, is_image
from wherefrom.report.images import data_uri
from wherefrom.report.numbers import number, percent
from wherefrom.report.panels import Panel
from wherefrom.studies.attack import AttackResult, Budget, EditSize, PoisonedQuery, PoisoningAudit

# Edited training examples shown of one attack.
_EDITS_SHOWN = 3
# Flipped queries shown of an attack on many at once.
_QUERIES_SHOWN = 12
# A difference fainter than this share of the range is magnified more.
_FAINT = 0.08
_MAGNIFIED, _MORE = 10, 100
_ROWS = 6

Describer = Callable[[int], Card]


def poisoning_panel(
    audit: PoisoningAudit,
    train_card: Describer,
    query_card: Describer,
    *,
    class_names: Sequence[str] | None = None,
    top: int = 6,
) -> Panel:
    """Shares by number of edits, and for some queries original, edited and difference of what was edited.

    Args:
        audit: attacks on each query by itself.
        train_card, query_card: from an index to what people see of it.
        class_names: names of the classes.
        top: queries shown.
    """
    counted = len(audit.attacked) - len(audit.not_converged)
    entries = [entry for entry in audit.queries if entry.flipped and entry.edited is not None]
    return Panel.from_template(
        "Poisoning",
        "poisoning.html.j2",
        lead=_budget_words(audit.budget),
        n=f"{audit.n:,}",
        shares=[
            {
                "name": _examples(k),
                "flipped": len(audit.flipped(k)),
                "of": counted,
                "share": _share(audit.share(k)) if counted else "–",
                "width": round(100 * audit.share(k), 1) if counted else 0,
            }
            for k in audit.edits
        ],
        together=None,
        notes=_audit_notes(audit),
        attacks=[
            {
                "query": card_view(query_card(entry.query)),
                **dict(
                    zip(
                        ("before", "after"), flip_names(entry.before, entry.after, class_names, audit.classes)
                    )
                ),
                "others": f"{_share(entry.others_changed)} of the other predictions change",
                **_edits(entry.index, entry.original, entry.edited, entry.size, audit.budget, train_card),
            }
            for entry in entries[:top]
        ],
        nothing=_nothing_words(audit),
    )


def attack_panel(
    result: AttackResult,
    train_card: Describer,
    query_card: Describer,
    *,
    class_names: Sequence[str] | None = None,
) -> Panel:
    """One attack on many queries at once, in the same form.

    Args:
        result: of the attack.
        train_card, query_card: from an index to what people see of it.
        class_names: names of the classes.
    """
    flipped = []
    if result.seeds:
        for position, query in enumerate(result.queries.tolist()):
            if bool(result.flipped[0, position]):
                before, after = (result.labels(runs)[0][position] for runs in (result.before, result.after))
                flipped.append((query, *flip_names(before, after, class_names, result.classes)))
    notes = [result.controls.words + "."] if result.controls is not None else []
    notes = [note[0].upper() + note[1:] for note in notes]
    notes += [f"Retraining with seed {seed} did not converge: {why}" for seed, why in result.failed.items()]
    if result.already_wrong:
        notes.append(_wrong(len(result.already_wrong)))
    k = len(result.index)
    return Panel.from_template(
        "Poisoning",
        "poisoning.html.j2",
        lead=_budget_words(result.budget),
        n=None,
        shares=[
            {
                "name": f"{k} edited, all queries at once",
                "flipped": result.flips_words,
                "of": len(result.queries),
                "share": _share(result.share) if result.seeds else "–",
                "width": round(100 * result.share, 1) if result.seeds else 0,
            }
        ],
        together=[
            {"card": card_view(query_card(query)), "before": before, "after": after}
            for query, before, after in flipped[:_QUERIES_SHOWN]
        ],
        notes=notes,
        attacks=[
            {
                "query": None,
                "others": "",
                **_edits(
                    result.index.tolist(),
                    result.original,
                    result.edited,
                    result.size,
                    result.budget,
                    train_card,
                ),
            }
        ],
        nothing="",
    )


def _edits(
    index: Sequence[int],
    original: Float[Tensor, " k *x"] | None,
    edited: Float[Tensor, " k *x"] | None,
    size: EditSize,
    budget: Budget,
    card: Describer,
) -> dict[str, Any]:
    """The edited training examples of one attack, the first few as pictures or as their largest changes."""
    assert original is not None and edited is not None
    return {
        "size": f"{size.words[0].upper()}{size.words[1:]}",
        "edits": [_edit(card(i), original[j], edited[j], budget) for j, i in enumerate(index[:_EDITS_SHOWN])],
        "more": max(0, len(index) - _EDITS_SHOWN),
    }


def _edit(
    card: Card, original: Float[Tensor, "*x"], edited: Float[Tensor, "*x"], budget: Budget
) -> dict[str, Any]:
    before, after = (_picture(values, card) for values in (original, edited))
    view = card_view(card)
    if before is None or after is None:
        change = (edited - original).flatten().double()
        order = change.abs().argsort(descending=True, stable=True)[:_ROWS].tolist()
        flat = original.flatten()
        names = [str(name) for name, _ in card.rows]
        rows = [
            (
                names[j] if len(names) == len(flat) else f"x{j}",
                number(float(flat[j])),
                number(float(change[j]), 3, sign=True),
            )
            for j in order
        ]
        return {"title": view["title"], "label": view["label"], "pictures": [], "rows": rows}
    low, high = _range(before, after, budget)
    difference = (after - before) / (high - low)
    factor = _MORE if _MAGNIFIED * float(np.abs(difference).max()) < _FAINT else _MAGNIFIED
    shown = [
        ("original", np.clip((before - low) / (high - low), 0, 1)),
        ("edited", np.clip((after - low) / (high - low), 0, 1)),
        (f"difference × {factor}", np.clip(0.5 + factor * difference, 0, 1)),
    ]
    small = max(before.shape) <= 64
    pictures = [
        {"name": name, "image": data_uri(image), "pixelated": small, "alt": f"{view['title']}, {name}"}
        for name, image in shown
    ]
    return {"title": view["title"], "label": view["label"], "pictures": pictures, "rows": []}


def _picture(values: Float[Tensor, "*x"], card: Card) -> np.ndarray | None:
    """The input as a picture: itself, or in the shape in which its card shows one; `None` if it is none."""
    array = values.detach().cpu().double().numpy()
    if is_image(array):
        return array
    if card.image is not None and np.asarray(card.image).size == array.size:
        return array.reshape(np.asarray(card.image).shape)
    return None


def _range(before: np.ndarray, after: np.ndarray, budget: Budget) -> tuple[Any, Any]:
    """Black and white: the valid range where it is known, else what occurs."""
    bounds = []
    for bound in (budget.low, budget.high):
        values = None if bound is None else np.asarray(bound, dtype=np.float64)
        bounds.append(None if values is None else values if values.ndim else float(values))
    low, high = bounds
    if low is not None and high is not None:
        try:
            np.broadcast_shapes(np.shape(low), before.shape)
            np.broadcast_shapes(np.shape(high), before.shape)
        except ValueError:  # a range per entry of a flat input that is shown as a picture
            return float(np.min(low)), float(np.max(high))
        return low, high
    both = np.stack([before, after])
    low, high = float(both.min()), float(both.max())
    return low, high if high > low else low + 1.0


def _audit_notes(audit: PoisoningAudit) -> list[str]:
    notes = []
    flipped = [entry for entry in audit.queries if entry.flipped]
    if flipped:
        notes.append(
            f"Along with a flip, {_share(audit.others_changed)} of the other predictions change on average: "
            "from the accuracy alone the edits would not be noticed."
            if audit.others_changed < 0.02
            else f"Along with a flip, {_share(audit.others_changed)} of the other predictions change on "
            "average."
        )
    if audit.already_wrong:
        notes.append(_wrong(len(audit.already_wrong)))
    if audit.not_converged:
        notes.append(_unconverged(len(audit.not_converged)))
    return notes


def _nothing_words(audit: PoisoningAudit) -> str:
    flipped: list[PoisonedQuery] = [entry for entry in audit.queries if entry.flipped]
    if flipped:
        return ""
    return "No prediction flipped within this budget, so there is no edit to show."


def _budget_words(budget: Budget) -> str:
    norm = "in any value" if budget.norm == "linf" else "in l2 norm"
    words = f"at most {budget.words} {norm}"
    if budget.grid == "same":
        return f"{words}, so that the stored 8-bit picture stays the same"
    return words


def _wrong(count: int) -> str:
    many = "1 query was" if count == 1 else f"{count} queries were"
    return f"{many} mispredicted before and not attacked."


def _unconverged(count: int) -> str:
    many = (
        "1 retraining did not converge and is"
        if count == 1
        else f"{count} retrainings did not converge and are"
    )
    return f"{many} left out."


def _share(value: float) -> str:
    return "0 %" if value == 0 else percent(value)


def _examples(count: int) -> str:
    return f"{count} edited training example{'' if count == 1 else 's'}"


def flip_names(
    before: Any, after: Any, names: Sequence[str] | None, classes: Sequence[Any] | None = None
) -> tuple[str, str]:
    """Names of the classes of a flipped prediction; of labels −1 and +1 the first and the second name. Labels
    that are no class numbers are found in `classes`."""
    signed = classes is None and -1 in (before, after)
    made = []
    for label in (before, after):
        index = int(label > 0) if signed else label if classes is None else list(classes).index(label)
        named = names is not None and 0 <= index < len(names)
        made.append(str(names[index]) if named and names is not None else str(label))
    return made[0], made[1]
