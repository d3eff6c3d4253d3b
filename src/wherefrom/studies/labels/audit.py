"""What was found about the labels: every sign for every example, ranked tables, proposals, agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.studies.labels.agreement import Agreement, agreement
from wherefrom.studies.labels.combine import SignRanking, default_ranking
from wherefrom.studies.labels.disagreement import Disagreement, mean_confidence
from wherefrom.studies.labels.wrong_count import (
    WrongCount,
    count_wrong,
    no_left_out,
    not_all_looked_at,
    not_converged,
)

if TYPE_CHECKING:
    import pandas

COMBINED = "combined"
# Signals of the text table.
_SHOWN = ("left_out_loss", "self_influence", "harm")


@dataclass(frozen=True)
class Suspect:
    """One example of a ranked table.

    Attributes:
        rank: from 1, the most suspicious.
        train: index in the training set.
        given, proposed, predicted: names of its label, of the label proposed for it, and of the class the
            model as it is predicts.
        kept: whether the proposal is the label it has.
        suspicion: the value it is ranked by.
        signals: all signals, by name.
    """

    rank: int
    train: int
    given: str
    proposed: str
    predicted: str
    suspicion: float
    signals: Mapping[str, float]

    @property
    def kept(self) -> bool:
        return self.given == self.proposed


@dataclass(frozen=True)
class LabelAudit:
    """Signs of wrong labels for `k` training examples; in every signal larger is more suspicious.

    Attributes:
        index: which training examples, `(k,)`.
        given: class number of their labels, `(k,)`.
        predicted: the class the model as it is predicts, `(k,)`.
        signals: by name, each `(k,)`, as described in `label_signals`; `harm` and `relabel` only where there
            was validation data. Where scores are similarities, `harm` predicts nothing; see `sized`.
        errors: expected error of the solver in `self_influence`, `harm` and `relabel`, each `(k,)`; infinite
            or NaN where it is not known.
        confidence: probabilities of the classes by the model as it is (scores, for a loss without
            probabilities), `(k, c)`.
        left_out_confidence: the same as predicted for a model trained without the example, `(k, c)`.
        relabel_change: predicted change of the mean validation loss for every class the label might become,
            zero for the one it has, `(k, c)`; `None` without validation data.
        class_names: of the `c` classes.
        n: training examples in all.
        converged: whether every solve did.
        settings: everything that defines the run, as JSON values.
        validation_disagreements: validation labels that differ from the class the model predicts; `None`
            without validation data.
    """

    index: Int[Tensor, " k"]
    given: Int[Tensor, " k"]
    predicted: Int[Tensor, " k"]
    signals: Mapping[str, Float[Tensor, " k"]]
    errors: Mapping[str, Float[Tensor, " k"]]
    confidence: Float[Tensor, "k c"]
    left_out_confidence: Float[Tensor, "k c"]
    relabel_change: Float[Tensor, "k c"] | None
    class_names: tuple[str, ...]
    n: int
    converged: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation_disagreements: int | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sized(self) -> bool:
        """Whether `harm` predicts a change of the loss, and is not an order alone."""
        return self.settings.get("estimand") != "similarity"

    @property
    def combined(self) -> Float[Tensor, " k"]:
        """The signals in one number; see `wherefrom.studies.labels.combine`."""
        return self.ranking.values

    @property
    def ranking(self) -> SignRanking:
        """The combination, which sign leads it and what else counts."""
        mean = mean_confidence(self.confidence, self.left_out_confidence, self._probabilities)
        return default_ranking(self.signals, self.given, mean, self.disagreement)

    @property
    def disagreement(self) -> Disagreement:
        """How many labels differ from the model's class, in-sample, left out and on validation examples."""
        wrong = self.validation_disagreements
        return Disagreement(
            len(self),
            int((self.confidence.argmax(1) != self.given).sum()),
            int((self.left_out_confidence.argmax(1) != self.given).sum()),
            0 if wrong is None else int(self.settings["validation"]),
            wrong or 0,
        )

    @property
    def wrong(self) -> WrongCount:
        """Estimated number of wrong labels in the training set, with an interval, or why it cannot be told;
        see `wherefrom.studies.labels.wrong_count`."""
        if len(self.index.unique()) < self.n:
            return not_all_looked_at(len(self), self.n)
        if self.settings.get("left_out") == "none":
            return no_left_out(self.n, str(self.settings.get("method", "this method")))
        if not self.converged:
            return not_converged(self.n)
        return count_wrong(
            self.given,
            self.confidence,
            self.left_out_confidence,
            self.disagreement,
            probabilities=self._probabilities,
            held=int(self.settings.get("left_out_held", 0)),
            approximate=bool(self.settings.get("left_out_approximate", False)),
        )

    @property
    def proposed(self) -> Int[Tensor, " k"]:
        """The likeliest class by the model without the example; its own label where that is it.

        A suggestion to look at, not a correction: `PROPOSALS_RIGHT` says how often it was
        right where that could be measured.
        """
        return self.left_out_confidence.argmax(1)

    @property
    def most_helpful(self) -> Int[Tensor, " k"] | None:
        """The class that, as the label, is predicted to lower the validation loss most (the given one, where
        every other raises it); `None` without validation data.

        What helps most need not be true: a label may help by pulling against other errors.
        """
        return None if self.relabel_change is None else self.relabel_change.argmin(1)

    def suspicion(self, by: str = COMBINED) -> Float[Tensor, " k"]:
        """One signal, or the combination of them.

        Raises:
            InputError: no such signal.
        """
        if by == COMBINED:
            return self.combined
        if by not in self.signals:
            missing = (
                " (it needs validation=, examples the model was not trained on)"
                if by in ("harm", "relabel")
                else ""
            )
            raise InputError(
                f"by={by!r} is none of the signals found{missing}; expected "
                f"{', '.join(map(repr, (COMBINED, *self.signals)))}"
            )
        return self.signals[by]

    def order(self, by: str = COMBINED) -> Int[Tensor, " k"]:
        """Training indices, the most suspicious first."""
        return self.index[self._positions(by)]

    def top(self, k: int = 10, by: str = COMBINED) -> list[Suspect]:
        """The `k` most suspicious examples.

        Raises:
            InputError: `k` below 1, or no such signal.
        """
        k = whole("k", k, 1)
        return list(self._suspects(self._positions(by)[:k], self.suspicion(by)))

    def table(self, k: int = 10, by: str = COMBINED) -> str:
        """The `k` most suspicious examples as text, with some of the signals; no proposal where the label is
        kept.

        Raises:
            InputError: as `top`.
        """
        names = [name for name in _SHOWN if name in self.signals]
        head = "".join(f"{name:>15}" for name in names)
        lines = [f"rank   train  given      proposed  {head}"]
        for row in self.top(k, by):
            proposed = "" if row.kept else row.proposed
            cells = "".join(f"{row.signals[name]:>15.3g}" for name in names)
            lines.append(f"{row.rank:>4} {row.train:>7}  {row.given[:10]:<10} {proposed[:10]:<10}{cells}")
        return "\n".join(lines)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example, the most suspicious first: `train, given, proposed, predicted, combined`, the
        signals, and `most_helpful` where there was validation data."""
        import pandas

        return pandas.DataFrame(list(self.rows()))

    def rows(self, by: str = COMBINED) -> Iterator[dict[str, Any]]:
        """The same row by row, in the order of any signal."""
        combined, helpful = self.combined, self.most_helpful
        positions = self._positions(by)
        for i, one in zip(positions.tolist(), self._suspects(positions, combined)):
            yield {
                **{name: getattr(one, name) for name in ("train", "given", "proposed", "predicted")},
                COMBINED: one.suspicion,
                **one.signals,
                **({} if helpful is None else {"most_helpful": self.class_names[int(helpful[i])]}),
            }

    def agreement(self, k: int | None = None) -> Agreement:
        """Rank correlations between the signals, and what their `k` most suspicious examples have in common.

        Args:
            k: a tenth of the examples by default.

        Raises:
            InputError: `k` below 1 or above the number of examples.
        """
        return agreement(self.signals, max(1, len(self) // 10) if k is None else k)

    def __repr__(self) -> str:
        moved = int((self.proposed != self.given).sum())
        state = "" if self.converged else ", NOT converged"
        return (
            f"LabelAudit({len(self)} of {self.n} training examples, {len(self.class_names)} classes, signals "
            f"{', '.join(self.signals)}; another label proposed for {moved}{state})"
        )

    @property
    def _probabilities(self) -> bool:
        return bool(self.settings.get("probabilities", True))

    def _positions(self, by: str) -> Int[Tensor, " k"]:
        # A stable sort: ties keep the order of the training set.
        return torch.argsort(self.suspicion(by), descending=True, stable=True)

    def _suspects(self, at: Tensor, suspicion: Tensor) -> Iterator[Suspect]:
        proposed = self.proposed
        for rank, i in enumerate(at.tolist(), 1):
            yield Suspect(
                rank=rank,
                train=int(self.index[i]),
                given=self.class_names[int(self.given[i])],
                proposed=self.class_names[int(proposed[i])],
                predicted=self.class_names[int(self.predicted[i])],
                suspicion=float(suspicion[i]),
                signals={name: float(values[i]) for name, values in self.signals.items()},
            )
