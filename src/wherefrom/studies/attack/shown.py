"""What people see of poisoning: what share of predictions few edited training examples flip, and what the
edits look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wherefrom.plain_text import count_of
from wherefrom.report import Card, Cards, Cell, Column, PageBlock, Shown, Table, Words
from wherefrom.report.cards import is_image
from wherefrom.report.numbers import number, percent
from wherefrom.studies.attack import AttackResult, Budget, EditSize, PoisoningAudit

# Edited training examples shown of one attack.
_EDITS_SHOWN = 3
# Flipped queries shown of an attack on many at once.
_QUERIES_SHOWN = 12
# Flips listed in the terminal.
_LISTED, _WIDEST = 8, 14
# A difference fainter than this share of the range is magnified more.
_FAINT = 0.08
_MAGNIFIED, _MORE = 10, 100
# Other predictions changed, as a share, below which nobody would notice.
_UNNOTICED = 0.02
_ROWS = 6

Describer = Callable[[int], Card]
# A query, its prediction before and after, and the training examples edited.
Flip = tuple[int, str, str, Sequence[int]]


def poisoning_blocks(
    audit: PoisoningAudit,
    train_card: Describer,
    query_card: Describer,
    *,
    class_names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    remark: str = "",
    top: int = 6,
) -> list[PageBlock]:
    """Shares by number of edits, and for some queries original, edited and difference of what was edited.

    Args:
        audit: attacks on each query by itself.
        train_card, query_card: from an index to what people see of it.
        class_names: names of the classes.
        numbers: of the attacked queries; their places among them when `None`.
        remark: on how the attack was made.
        top: queries shown with their edits.
    """
    counted = len(audit.attacked) - len(audit.not_converged)
    shares = [
        (
            count_of(k, "edited training example"),
            f"{len(audit.flipped(k))} of {counted} flip",
            audit.share(k) if counted else None,
        )
        for k in audit.edits
    ]
    found = [entry for entry in audit.queries if entry.flipped]
    flips: list[Flip] = [
        (one.query, *flip_names(one.before, one.after, class_names, audit.classes), one.index)
        for one in found
    ]
    notes = []
    if found and audit.others_changed < _UNNOTICED:
        notes.append("From the accuracy alone the edits would not be noticed.")
    notes += _wrong(audit.already_wrong)
    if not counted:
        notes.append(f"{count_of(len(audit.not_converged), 'retraining')} did not converge: left out.")
    if not found:
        notes.append("No prediction flipped within this budget, so there is no edit to show.")
    cards = [
        Shown(
            query_card(query),
            [(before, "strong"), ("→", "muted"), (after, "poor")],
            words=f"{percent(one.others_changed)} of the other predictions change.",
            blocks=_edits(one.index, one.original, one.edited, one.size, audit.budget, train_card),
        )
        for one, (query, before, after, _) in zip(found, flips)
        if one.edited is not None
    ]
    return [
        *_head(audit.budget, shares, audit.words, remark, notes, f", a few of the {audit.n:,} at a time"),
        Cards(cards[:top], where="page"),
        *_flips(flips, numbers),
    ]


def attack_blocks(
    result: AttackResult,
    train_card: Describer,
    query_card: Describer,
    *,
    class_names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    remark: str = "",
) -> list[PageBlock]:
    """One attack on many queries at once, in the same form; arguments as for `poisoning_blocks`."""
    flips: list[Flip] = []
    if result.seeds:
        for position, query in enumerate(result.queries.tolist()):
            if bool(result.flipped[0, position]):
                before, after = (result.labels(runs)[0][position] for runs in (result.before, result.after))
                named = flip_names(before, after, class_names, result.classes)
                flips.append((query, *named, result.index.tolist()))
    notes = [f"Retraining with seed {seed} did not converge: {why}" for seed, why in result.failed.items()]
    share = (
        f"{len(result.index)} edited, all queries at once",
        f"{result.flips_words} of {len(result.queries)} flip",
        result.share if result.seeds else None,
    )
    notes += _wrong(result.already_wrong)
    cards = [Shown(query_card(query), [(f"{before} → {after}", "")]) for query, before, after, _ in flips]
    blocks = _head(result.budget, [share], result.words, remark, notes)
    if cards:
        blocks.append(Cards(cards[:_QUERIES_SHOWN], dense=True, heading="Flipped", where="page"))
    index = result.index.tolist()
    edits = _edits(index, result.original, result.edited, result.size, result.budget, train_card)
    blocks.append(Cards([Shown(Card("Edited training examples"), blocks=edits)], where="page"))
    return [*blocks, *_flips(flips, numbers)]


def _head(
    budget: Budget,
    shares: Sequence[tuple[str, str, float | None]],
    verdict: str,
    remark: str,
    notes: Sequence[str],
    few: str = "",
) -> list[PageBlock]:
    """The question, the shares as bars, and the verdict in words."""
    words = (
        "How many training examples would somebody have to touch to change a prediction? Inputs were edited "
        f"by {_budget_words(budget)}, labels left alone{few}; the model was then trained again on what came "
        "out. Every flip below is a prediction of such a retrained model."
    )
    rows: list[list[str | Cell]] = [
        [name, Cell("–") if share is None else Cell(percent(share), "strong", share), flipped]
        for name, flipped, share in shares
    ]
    columns = [
        Column("edited", left=True, width=34),
        Column("share that flips", tone="poor"),
        Column("", left=True),
    ]
    blocks: list[PageBlock] = [
        Words(words, heading="Poisoning"),
        Table(columns, rows, shown=len(rows)),
        Words(verdict),
    ]
    return blocks + [Words(note, tone="muted") for note in (remark, " ".join(notes)) if note]


def _flips(flips: Sequence[Flip], numbers: Sequence[int] | None) -> list[PageBlock]:
    """For a terminal: the flipped queries, with what was edited for them."""
    columns = [
        Column("query"),
        Column("before", left=True, width=_WIDEST),
        Column("after", left=True, width=_WIDEST),
        Column("edited training examples", left=True, width=40),
    ]
    rows: list[list[str | Cell]] = [
        [
            str(query if numbers is None else numbers[query]),
            before,
            Cell(after, "poor"),
            Cell(", ".join(map(str, index)), "muted"),
        ]
        for query, before, after, index in flips
    ]
    return [Table(columns, rows, shown=_LISTED, file="attack.csv", where="terminal")] if rows else []


def _edits(
    index: Sequence[int],
    original: Float[Tensor, " k *x"] | None,
    edited: Float[Tensor, " k *x"] | None,
    size: EditSize,
    budget: Budget,
    card: Describer,
) -> list[PageBlock]:
    """The edited training examples of one attack, the first few as pictures or as their largest changes."""
    assert original is not None and edited is not None
    blocks: list[PageBlock] = [Words(f"{size.words[0].upper()}{size.words[1:]}.", where="page")]
    blocks += [_edit(card(i), original[j], edited[j], budget) for j, i in enumerate(index[:_EDITS_SHOWN])]
    more = len(index) - _EDITS_SHOWN
    if more > 0:
        words = f"and {count_of(more, 'more edited example')}"
        blocks.append(Words(words, tone="muted", where="page"))
    return blocks


def _edit(
    card: Card, original: Float[Tensor, "*x"], edited: Float[Tensor, "*x"], budget: Budget
) -> PageBlock:
    before, after = (_picture(values, card) for values in (original, edited))
    name = card.title if card.label is None else f"{card.label}, {card.title}"
    if before is None or after is None:
        change = (edited - original).flatten().double()
        order = change.abs().argsort(descending=True, stable=True)[:_ROWS].tolist()
        flat = original.flatten()
        names = [str(name) for name, _ in card.rows]
        rows = [
            [
                names[j] if len(names) == len(flat) else f"x{j}",
                number(float(flat[j])),
                number(float(change[j]), 3, sign=True),
            ]
            for j in order
        ]
        columns = [Column("largest changes", left=True), Column("original"), Column("change")]
        return Table(columns, rows, heading=name, where="page")
    low, high = _range(before, after, budget)
    difference = (after - before) / (high - low)
    factor = _MORE if _MAGNIFIED * float(np.abs(difference).max()) < _FAINT else _MAGNIFIED
    pictures = [
        ("original", np.clip((before - low) / (high - low), 0, 1)),
        ("edited", np.clip((after - low) / (high - low), 0, 1)),
        (f"difference × {factor}", np.clip(0.5 + factor * difference, 0, 1)),
    ]
    shown = [Shown(Card(title, image=image)) for title, image in pictures]
    return Cards(shown, heading=name, dense=True, where="page")


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


def _budget_words(budget: Budget) -> str:
    norm = "in any value" if budget.norm == "linf" else "in l2 norm"
    words = f"at most {budget.words} {norm}"
    if budget.grid == "same":
        return f"{words}, so that the stored 8-bit picture stays the same"
    return words


def _wrong(queries: Sequence[int]) -> list[str]:
    if not queries:
        return []
    many = "1 query was" if len(queries) == 1 else f"{len(queries)} queries were"
    return [f"{many} mispredicted before and not attacked."]


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
