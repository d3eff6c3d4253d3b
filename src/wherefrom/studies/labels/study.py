"""`wherefrom labels`: which training labels look wrong, ranked, with a label proposed for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, SelfScores, Trust, trust_of
from wherefrom.influence.kept import kept
from wherefrom.report import (
    Card,
    Cards,
    Cell,
    Column,
    Columns,
    Section,
    Shown,
    Table,
    Words,
)
from wherefrom.report.numbers import number
from wherefrom.studies.cards import train_cards
from wherefrom.studies.labels.agreement import Agreement
from wherefrom.studies.labels.audit import COMBINED, LabelAudit, Suspect
from wherefrom.studies.labels.classes import require_examples
from wherefrom.studies.labels.proposals import PROPOSALS_RIGHT
from wherefrom.studies.labels.signals import label_signals
from wherefrom.studies.selection import largest_losses
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet, table_of
from wherefrom.studies.task import Task

# What people read for the names of the code, in words and as the head of a column.
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
_HEADS = {
    **WORDS,
    "left_out_loss": "left out",
    "self_influence": "self-infl.",
    "harm": "harm",
    "relabel": "relabel",
}
# In their place where scores are similarities, which predict no harm.
_UNSIZED = {"harm": "score against validation", "relative_harm": "relative score against validation"}
_UNSIZED_HEADS = {**_HEADS, "harm": "against"}
# Signs with a column and a line of their own; the file has all.
_SHOWN = ("loss", "left_out_loss", "self_influence", "harm", "relabel")
_SIGNED = ("harm", "relabel")
_OF_VALIDATION = ("harm", "relative_harm", "relabel")
_WIDEST = 10


@dataclass(frozen=True)
class Labels(Study):
    """Rank the training labels by how much they look like mistakes, with a label proposed for each.

    With a validation set in the task file the ranking also uses what each label does to its loss.
    """

    name: ClassVar[str] = "labels"
    question: ClassVar[str] = "Which of these labels are wrong?"
    lead: ClassVar[str] = (
        "Signs that a training label is a mistake, from the trained model alone: what it makes of the "
        "example, what it would make of it had it never seen it, and how it bears on other examples."
    )

    top: int = option(12, "Most suspicious examples listed and shown.", least=1)
    review: int = option(0, "Training examples looked at, of largest loss (0: all).", least=0)
    by: str = option(COMBINED, "Sign they are ranked by: combined, loss, margin, self_influence, harm, …")

    def check(self, task: Task) -> None:
        """Refuse a sign that there is none of, or that needs a validation set where the task has none."""
        if self.by not in WORDS:
            raise InputError(
                f"by={self.by!r} is none of the signals; expected one of {', '.join(map(repr, WORDS))}"
            )
        if self.by in _OF_VALIDATION and task.validation is None:
            raise InputError(
                f"by={self.by!r} needs validation=, examples the model was not trained on: name them in the "
                "task file, or rank by another sign"
            )

    def run(
        self, attributor: Attributor, task: Task, say: Say = quiet, self_scores: SelfScores | None = None
    ) -> LabelsResult:
        """The signs, with the task's validation set if it has one.

        Raises:
            InputError: as `wherefrom.studies.labels.label_signals`.
        """
        objective = attributor.objective
        say(f"{task.name}: signs of wrong labels among {objective.n:,} training examples")
        indices = None
        if self_scores is None and self.review:
            indices = largest_losses(attributor, objective.examples, self.review)
        index = indices if self_scores is None else self_scores.index.tolist()
        trusted = None
        if task.validation is not None:
            trusted = require_examples(objective, task.validation, "validation").fingerprint()
        audit = kept(
            attributor,
            "signs of wrong labels",
            lambda: label_signals(
                attributor,
                task.validation,
                indices=indices,
                self_scores=self_scores,
                class_names=task.class_names,
            ),
            of=[index, task.class_names, trusted],
        )
        audit.suspicion(self.by)  # an unknown sign is refused before anything is written
        trust = trust_of(attributor, converged=audit.converged)
        return LabelsResult(task.name, audit, train_cards(task, attributor), self, trust)


@dataclass(frozen=True)
class LabelsResult(Result):
    """What was found about a task's labels."""

    name: str
    audit: LabelAudit
    card: Callable[[int], Card]
    asked: Labels
    trust: Trust

    def tables(self) -> dict[str, tuple[list[str], Rows]]:
        """`labels.csv`: every example, the most suspicious first."""
        rows = enumerate(self.audit.rows(self.asked.by), 1)
        helpful = "most_helpful"
        return {"labels": table_of({"rank": k, **row, helpful: row.get(helpful, "")} for k, row in rows)}

    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        audit, asked = self.audit, self.asked
        found, ranking, wrong = audit.agreement(), audit.ranking, audit.wrong
        return {
            "n": audit.n,
            "looked_at": len(audit),
            "classes": list(audit.class_names),
            "signals": list(audit.signals),
            "ranked_by": asked.by,
            "combined": {
                "leads": ranking.by,
                "loss_weight": ranking.loss_weight,
                "far_off": None if math.isnan(ranking.far_off) else ranking.far_off,
                "harm_weight": ranking.harm_weight,
            },
            "wrong_labels": {
                "estimate": wrong.estimate,
                "low": wrong.low,
                "high": wrong.high,
                "told": wrong.told,
                "words": wrong.words,
            },
            "converged": audit.converged,
            "proposed_changes": int((audit.proposed != audit.given).sum()),
            "proposals_right": PROPOSALS_RIGHT,
            "top": [vars(suspect) for suspect in audit.top(asked.top, asked.by)],
            "agreement": {
                "names": list(found.names),
                "spearman": found.spearman.tolist(),
                "overlap": found.overlap.tolist(),
                "k": found.k,
            },
            "settings": dict(audit.settings),
        }

    def section(self) -> Section:
        """The suspects as cards and as a table, how many labels are wrong, and what the signs mean."""
        audit, asked = self.audit, self.asked
        suspects = audit.top(asked.top, asked.by)
        moved = int((audit.proposed != audit.given).sum())
        left_out = "left_out_loss" in audit.signals
        seen = "without having seen it, the model" if left_out else "the model, which has seen it,"
        of = "" if len(audit) == audit.n else f" (of {audit.n:,}, those of largest loss)"
        blocks: list[Any] = [
            Words(
                f"{len(audit):,} training examples looked at{of}; {seen} would label {moved:,} otherwise. "
                f"Ranked by {self._ranked_by()}. Rare but correct examples are among them "
                "too: a person should look from the top.",
                lead="Labels to check.",
            ),
            Words(audit.wrong.words, tone="strong"),
        ]
        if audit.wrong.told:
            blocks.append(
                Words(
                    "The lower end counts labels that differ from the model's class among the examples it is "
                    "surest of, as if they were wrong as often elsewhere; the upper end counts every label "
                    "that the model would not have predicted.",
                    tone="muted",
                    where="page",
                )
            )
        if not audit.converged:
            blocks.append(Words("Some solves did NOT converge: the ranking may be off.", tone="poor"))
        blocks += [
            Cards([self._shown(suspect) for suspect in suspects]),
            self._suspects(suspects),
            Words(PROPOSALS_RIGHT, tone="muted"),
            Columns(self._notes(), where="page"),
        ]
        if len(audit.signals) > 1:
            blocks.append(self._agreement(audit.agreement()))
        return Section(self.name, self.trust, blocks)

    def _shown(self, suspect: Suspect) -> Shown:
        proposed = (
            [("may be right", "muted")] if suspect.kept else [("perhaps", "muted"), (suspect.proposed, "")]
        )
        return Shown(
            self.card(suspect.train),
            [(suspect.given, "strong"), *proposed],  # type: ignore[list-item]
            [(self._words(name), _value(suspect, name)) for name in _SHOWN if name in suspect.signals],
            rank=suspect.rank,
        )

    def _suspects(self, suspects: list[Suspect]) -> Table:
        names = [name for name in _SHOWN if name in self.audit.signals]
        columns = [
            Column(""),
            Column("train"),
            Column("label", left=True, width=_WIDEST),
            Column("proposed", left=True, width=_WIDEST),
            *(Column((_HEADS if self.audit.sized else _UNSIZED_HEADS)[name]) for name in names),
        ]
        rows = [
            [
                Cell(str(one.rank), "muted"),
                str(one.train),
                Cell(one.given, "strong"),
                Cell("keep", "muted") if one.kept else one.proposed,
                *(_value(one, name, 2) for name in names),
            ]
            for one in suspects
        ]
        signals = self.audit.signals
        note = ["proposed: the class the model would give without the example"]
        if "left_out_loss" in signals:
            note.append("left out: loss predicted for the model trained without the example")
        else:
            note = ["proposed: the model's own class"]
        if "relabel" in signals:
            note.append("harm, relabel: predicted fall of the mean validation loss if it is removed, or")
            note.append("given the label that helps most")
        elif "harm" in signals and self.audit.sized:
            note.append("harm: predicted fall of the mean validation loss if it is removed")
        elif "harm" in signals:
            note.append("against: minus its mean score for the validation losses, over n: an order of")
            note.append("likeness that predicts no change")
        else:
            missing = "harm and the gain by relabelling" if self.audit.sized else "scores against them"
            note.append(f"no validation examples: {missing} are left out")
        return Table(columns, rows, note="\n".join(note), shown=len(rows), where="terminal")

    def _notes(self) -> list[tuple[str, str]]:
        settings = self.audit.settings
        validation, held = settings.get("validation", 0), settings.get("left_out_held", 0)
        signals = self.audit.signals
        if "left_out_loss" in signals:
            proposal = (
                "is the likeliest class by the model as it would be without the example, predicted from the "
                "example's self-influence and not by training again."
            )
        else:
            proposal = (
                "is the class that the model as it is gives: this method does not say what it would be."
            )
        sized = self.audit.sized
        harm = (
            f"is how much the mean loss of the {validation} validation examples is predicted to fall when "
            "the example is removed."
            if sized
            else f"is minus its mean score for the losses of the {validation} validation examples, over n: "
            "an order of likeness, which predicts no change and has no size."
        )
        relabel = "is the same when it gets the label that helps most, which need not be the proposed one."
        none = (
            "were given: with them, the ranking also uses "
            f"{'what each label does to' if sized else 'the scores for'} the loss of examples whose labels "
            "are trusted."
        )
        notes = [("The proposal", proposal)]
        if "left_out_loss" in signals:
            notes.append(("Loss when left out", "is the loss of that model on the example."))
        if "self_influence" in signals:
            notes.append(("Self-influence", "says how much the example rests on itself."))
        if validation:
            notes.append((self._words("harm").capitalize(), harm))
        if "relabel" in signals:
            notes.append(("Gain by relabelling", relabel))
        if not validation:
            notes.append(("No validation examples", none))
        if held:
            notes.append(
                (
                    "Held back:",
                    f"for {held} examples, which the model hardly learnt from any other, the prediction "
                    "without them was shortened to be safe.",
                )
            )
        return notes

    def _words(self, name: str) -> str:
        """A sign as people read it."""
        return (WORDS if self.audit.sized else {**WORDS, **_UNSIZED}).get(name, name)

    def _ranked_by(self) -> str:
        """Of the default ranking also the sign that leads it."""
        words = self._words(self.asked.by)
        return f"{words} (the {WORDS[self.audit.ranking.by]} leads)" if self.asked.by == COMBINED else words

    def _agreement(self, found: Agreement) -> Table:
        """Rank correlations above the diagonal, common members below."""
        heads = [self._words(name) for name in found.names]

        def cell(a: int, b: int) -> str:
            if a == b:
                return "·"
            value = float((found.spearman if a < b else found.overlap)[a, b])
            return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")

        return Table(
            [Column("", left=True), *(Column(head) for head in heads)],
            [[heads[a], *(cell(a, b) for b in range(len(heads)))] for a in range(len(heads))],
            note="Above the diagonal: rank correlation over all examples looked at. Below: what the "
            f"{found.k:,} most suspicious by two signs have in common.",
            folded="How far the signs agree",
            where="page",
        )


def _value(suspect: Suspect, name: str, digits: int = 3) -> str:
    return number(suspect.signals[name], digits, sign=name in _SIGNED)
