"""What an attack on a training set achieved, after real retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.percentages import percentage
from wherefrom.plain_text import count_of
from wherefrom.studies.attack.budget import Budget
from wherefrom.studies.attack.outcome import AttackStep
from wherefrom.task import as_given


@dataclass(frozen=True)
class EditSize:
    """How visible the edits are, largest over the edited examples.

    Attributes:
        linf: largest `|δ|`, in the units of the inputs.
        l2: largest `‖δ‖₂`, likewise.
        grey_levels: largest `|δ|` in grey levels; `None` where no level is known or the inputs are no
            pictures.
        same_picture: whether all edits round to the same grey levels as their originals; `None` where the
            budget has no grid.
    """

    linf: float
    l2: float
    grey_levels: float | None
    same_picture: bool | None

    @property
    def words(self) -> str:
        """In plain words."""
        if self.grey_levels is None:
            return f"edits of at most {self.linf:.3g} in a value, in their own units ({self.l2:.3g} in l2)"
        same = ", the same picture in 8 bits" if self.same_picture else ""
        return f"edits of at most {self.grey_levels:.2g} grey levels{same}"


def edit_size(original: Float[Tensor, " k *x"], edited: Float[Tensor, " k *x"], budget: Budget) -> EditSize:
    """Measured on the edits as they are kept in the training set."""
    change = edited - original
    levels = budget.in_levels(change)
    # With a free grid it is not known where grey levels begin and end.
    same = None if budget.grid == "free" else budget.same_picture(edited, original)
    return EditSize(
        float(change.abs().max()),
        float(change.flatten(1).norm(dim=1).max()),
        None if levels is None or not budget.pictures else float(levels.abs().max()),
        None if same is None else bool(same.all()),
    )


@dataclass(frozen=True)
class Controls:
    """Predictions of examples that were not attacked, before and after, averaged over seeds.

    Attributes:
        count: how many.
        changed: share predicted as another class.
        accuracy_before, accuracy_after: where the targets are classes, else `None`.
    """

    count: int
    changed: float
    accuracy_before: float | None
    accuracy_after: float | None

    @property
    def words(self) -> str:
        """In plain words."""
        text = f"{percentage(self.changed)} of {self.count:,} control predictions change"
        if self.accuracy_before is None or self.accuracy_after is None:
            return text
        return f"{text} (accuracy {100 * self.accuracy_before:.1f} → {100 * self.accuracy_after:.1f} %)"


@dataclass(frozen=True)
class AttackResult:
    """An attack, carried out and followed by real retraining.

    Attributes:
        queries: numbers of the targeted queries among those given, `(q,)`.
        already_wrong: numbers of queries that were mispredicted before: not targeted.
        index: training examples edited, `(k,)`.
        original, edited: their inputs, `(k, *x)`, as the edited training set holds them.
        train: the edited training set, in the form the user gave it.
        seeds: of the retrainings that converged.
        before, after: predicted classes of the targeted queries, one row per such seed, `(s, q)`: retrained
            on the given and on the edited training set; class numbers, which `labels` translates.
        failed: `{seed: reason}` of retrainings that did not converge; they count nowhere else.
        controls: what happened to the control queries; `None` if there were none, or nothing converged.
        size: how visible the edits are.
        history: the attack step by step.
        budget: as asked for.
        measurement: what was raised, or for a margin lowered.
        retraining: how was retrained, in words.
        classes: the user's labels in the order of the class numbers, where these are two things.
    """

    queries: Int[Tensor, " q"]
    already_wrong: list[int]
    index: Int[Tensor, " k"]
    original: Float[Tensor, " k *x"]
    edited: Float[Tensor, " k *x"]
    train: Any
    seeds: tuple[int, ...]
    before: Int[Tensor, "s q"]
    after: Int[Tensor, "s q"]
    failed: dict[int, str]
    controls: Controls | None
    size: EditSize
    history: list[AttackStep]
    budget: Budget
    measurement: str
    retraining: str
    classes: tuple[Any, ...] | None = None

    def labels(self, runs: Int[Tensor, "s q"]) -> list[list[Any]]:
        """`before` or `after` with labels as the user's data write them."""
        return [[as_given(number, self.classes) for number in row] for row in runs.tolist()]

    @property
    def flipped(self) -> Bool[Tensor, "s q"]:
        """Which targeted queries are predicted as another class after retraining, for each seed."""
        return self.before != self.after

    @property
    def flips(self) -> float:
        """How many, averaged over the seeds that converged; NaN if none did."""
        return float(self.flipped.sum(1).double().mean()) if len(self.seeds) else float("nan")

    @property
    def flips_words(self) -> str:
        """`flips` for people: an average over seeds with one decimal, unless it is a whole number."""
        return f"{round(self.flips, 1):g}"

    @property
    def share(self) -> float:
        """Of the targeted queries; NaN if no retraining converged."""
        return self.flips / len(self.queries)

    @property
    def words(self) -> str:
        """The verdict in a sentence or two."""
        edits = count_of(len(self.index), "edited training example")
        if not self.seeds:
            return f"Undecided: no retraining with {edits} converged ({next(iter(self.failed.values()))})."
        count = f"{self.flips_words} of {len(self.queries)} targeted predictions"
        seeds = "" if len(self.seeds) == 1 else f", on average over {len(self.seeds)} seeds"
        text = f"With {edits}, {count} flip after retraining{seeds}; {self.size.words}."
        if self.controls is not None:
            text += f" {self.controls.words[0].upper()}{self.controls.words[1:]}."
        if self.failed:
            text += (
                f" {len(self.failed)} of {len(self.failed) + len(self.seeds)} retrainings did not converge."
            )
        return text

    def summary(self) -> dict[str, Any]:
        """Headline numbers as JSON values."""
        return {
            "flips": self.flips,
            "targeted": len(self.queries),
            "share": self.share,
            "edited": self.index.tolist(),
            "already_wrong": self.already_wrong,
            "seeds": list(self.seeds),
            "failed": {str(seed): reason for seed, reason in self.failed.items()},
            "controls": None if self.controls is None else vars(self.controls).copy(),
            "size": vars(self.size).copy(),
            "steps": len(self.history) - 1,
            "measurement": self.measurement,
            "budget": self.budget.settings(),
            "retraining": self.retraining,
        }

    def __repr__(self) -> str:
        return (
            f"AttackResult(flips={self.flips_words} of {len(self.queries)}, edited={self.index.tolist()}, "
            f"{self.size.words}, failed={len(self.failed)})"
        )


def control_summary(
    before: list[Int[Tensor, " c"]],
    after: list[Int[Tensor, " c"]],
    right: Sequence[Sequence[Tensor | None]],
) -> Controls | None:
    """Predictions of the controls, averaged over the seeds that converged; `None` if none did.

    Args:
        before, after: predicted classes, one tensor per seed.
        right: which of them are correct, likewise; `None` where that is not known.
    """
    if not before:
        return None
    changed = float(torch.stack([(a != b).double().mean() for a, b in zip(before, after)]).mean())
    known = [[float(mark.double().mean()) for mark in marks if mark is not None] for marks in right]
    shares = [sum(values) / len(values) if values else None for values in known]
    return Controls(len(before[0]), changed, shares[0], shares[1])
