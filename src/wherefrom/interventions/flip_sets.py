"""Answers to *what would flip this prediction?*, for one query and for a test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wherefrom.arguments import number
from wherefrom.errors import InputError
from wherefrom.percentages import percentage
from wherefrom.plain_text import count_of
from wherefrom.task import as_given

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Confirmation:
    """What retraining said of a set.

    Attributes:
        size: of the set without which the retrained model predicts another label; `None` if none was found.
        margin: of the given model's prediction under the last model retrained, below zero once it is flipped;
            `None` if no retraining converged.
        became: the label that model predicts, as in `FlipSet`.
        tried: sizes retrained without, in turn.
        stable: whether the recipe on all the data predicts what the given model does, with the seed given and
            with another seed and order. Where it does not, a flip is not the removal's doing and is not
            counted.
        failed: by size, why the retraining did not converge.
        noise: by how much the margin differs between two trainings on all the data; NaN where that is not
            known.
        hidden: the prediction flipped, but its margin moved by less than twice the noise: whether the removal
            did it cannot be told, and it is not counted.
    """

    size: int | None
    margin: float | None
    became: Any
    tried: tuple[int, ...]
    stable: bool = True
    failed: dict[int, str] = field(default_factory=dict)
    noise: float = 0.0
    hidden: bool = False


@dataclass(frozen=True)
class FlipSet:
    """The smallest set of training examples found whose removal is predicted to flip one prediction.

    Attributes:
        query: index of the query.
        predicted, rival: labels before and after: as the user's data write them where they have a form of
            their own (scikit-learn's), otherwise class numbers, or −1 and +1.
        ranking: training indices in the order of removal, as many as might be removed; the set is a prefix.
        size: of the set, `None` where removing all of `ranking` is not predicted to flip the prediction.
        first_size: what adding up single scores says it would be.
        margin: of the prediction, a difference of logits.
        margin_after: predicted without the set, or without all of `ranking`.
        n: training examples.
        settled: whether every refit behind the answer reached its optimum.
        confirmation: what retraining says, if asked.
        classes: the user's labels in the order of the class numbers, where these are two things.
    """

    query: int
    predicted: Any
    rival: Any
    ranking: tuple[int, ...]
    size: int | None
    first_size: int | None
    margin: float
    margin_after: float
    n: int
    settled: bool = True
    confirmation: Confirmation | None = None
    classes: tuple[Any, ...] | None = None

    @property
    def number(self) -> int:
        """The predicted label as the loss writes it."""
        return self.predicted if self.classes is None else self.classes.index(self.predicted)

    def label(self, number: int) -> Any:
        """The label of a class number."""
        return as_given(number, self.classes)

    @property
    def indices(self) -> tuple[int, ...]:
        """The set, most influential first: the confirmed one where retraining enlarged it; empty if none."""
        confirmed = None if self.confirmation is None else self.confirmation.size
        return self.ranking[: confirmed or self.size or 0]

    @property
    def share(self) -> float | None:
        """`size / n`."""
        return None if self.size is None else self.size / self.n

    @property
    def confirmed_size(self) -> int | None:
        """Size of the set that retraining confirms, `None` if it was not asked or none was found."""
        return None if self.confirmation is None else self.confirmation.size

    @property
    def words(self) -> str:
        """The answer in a sentence or two."""
        return self.describe()

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """The answer in a sentence or two, with names for the labels."""

        def name(label: Any) -> str:
            return str(label) if label is None else self.name(label, class_names)

        if self.size is None:
            said = (
                f"Removing up to {len(self.ranking):,} of {self.n:,} training examples is not predicted to "
                f"change {name(self.predicted)}."
            )
            return said if self.settled else said + " Some refits did not settle, so a set may exist."
        said = (
            f"Without {count_of(self.size, 'training example')} of {self.n:,} "
            f"({percentage(self.size / self.n)}) the prediction is expected to turn from "
            f"{name(self.predicted)} to {name(self.rival)}."
        )
        check = self.confirmation
        if check is None:
            return said
        if not check.stable:
            return said + (
                " The recipe on all the data already predicts another label, with one seed at least: not "
                "counted as a flip."
            )
        if check.hidden:
            return said + (
                " Retraining flipped it, but the noise of training is not known: not counted as a flip."
                if math.isnan(check.noise)
                else f" Retraining without {count_of(check.tried[-1], 'training example')} flipped it, but "
                "cannot tell whether they did it: another seed and order alone move the margin by "
                f"{check.noise:.2g}."
            )
        if check.size is None:
            tried = ", ".join(f"{size:,}" for size in check.tried)
            kept = f"Retraining did not flip it (without {tried})."
            if len(check.failed) == len(check.tried):
                kept = "No retraining without it converged, so this is not confirmed."
            return f"{said} {kept}"
        if check.size == self.size:
            became = "" if check.became == self.rival else f": it became {name(check.became)}"
            return f"{said} Retraining confirms the flip{became}."
        return f"{said} Retraining needed {check.size:,} to flip it."

    def name(self, label: Any, class_names: Sequence[str] | None) -> str:
        """The name of a label; of labels −1 and +1 the first and the second name."""
        if self.classes is not None:
            index = self.classes.index(label)
        else:
            signed = -1 in (self.predicted, self.rival)
            index = int(label > 0) if signed else label
        named = class_names is not None and 0 <= index < len(class_names)
        return str(class_names[index]) if named and class_names is not None else str(label)

    def row(self) -> dict[str, Any]:
        """One line of a table, as JSON values."""
        check = self.confirmation
        return {
            "query": self.query,
            "predicted": self.predicted,
            "rival": self.rival,
            "size": self.size,
            "share": self.share,
            "first_size": self.first_size,
            "margin": self.margin,
            "margin_after": self.margin_after,
            "confirmed_size": self.confirmed_size,
            "retrained_margin": None if check is None else check.margin,
            "stable": None if check is None else check.stable,
            "noise": None if check is None else check.noise,
            "hidden": None if check is None else check.hidden,
        }


@dataclass(frozen=True)
class Robustness:
    """The share of predictions that fall to removing a small part of the training set.

    Attributes:
        shares: parts of the training set.
        predicted: of the queries, those with a set of at most that size, for each of `shares`.
        confirmed: those with a set that retraining confirms; `None` if it was not asked. Sets are not proved
            to be the smallest, so this is a lower bound.
        queries, n: numbers of queries and training examples.
    """

    shares: tuple[float, ...]
    predicted: tuple[float, ...]
    confirmed: tuple[float, ...] | None
    queries: int
    n: int

    @classmethod
    def of(cls, sets: Sequence[FlipSet], shares: Sequence[float], n: int) -> Robustness:
        """Counted over these answers.

        Raises:
            InputError: shares that are not between 0 and 1, or none.
        """
        if not shares:
            raise InputError("shares is empty: expected numbers above 0 and up to 1")
        for share in shares:
            number("shares", share, above=0, most=1)

        def fallen(sizes: Sequence[int | None]) -> tuple[float, ...]:
            # The tolerance is for shares such as 0.07 whose product with n falls short of a whole number.
            most = [share * n * (1 + 1e-12) for share in shares]
            return tuple(sum(s is not None and s <= k for s in sizes) / len(sizes) for k in most)

        asked = any(found.confirmation is not None for found in sets)
        return cls(
            tuple(float(share) for share in shares),
            fallen([found.size for found in sets]),
            fallen([found.confirmed_size for found in sets]) if asked else None,
            len(sets),
            n,
        )

    @property
    def words(self) -> str:
        """For the largest share, in a sentence."""
        said = (
            f"{100 * self.predicted[-1]:.0f} % of {self.queries:,} predictions are predicted to fall to "
            f"removing at most {100 * self.shares[-1]:g} % of the training data"
        )
        if self.confirmed is None:
            return said + "; retraining was not asked."
        return f"{said}; retraining confirms it for {100 * self.confirmed[-1]:.0f} %."

    def to_pandas(self) -> pandas.DataFrame:
        """One row per share: `share, examples, predicted, confirmed`."""
        import pandas

        table: dict[str, Any] = {
            "share": self.shares,
            "examples": [int(share * self.n * (1 + 1e-12)) for share in self.shares],
            "predicted": self.predicted,
        }
        if self.confirmed is not None:
            table["confirmed"] = self.confirmed
        return pandas.DataFrame(table)
