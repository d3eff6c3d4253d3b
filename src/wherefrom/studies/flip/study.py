"""`wherefrom flip`: the smallest sets of training examples that flip predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Fit, Trust, as_fit, trust_of
from wherefrom.influence.kept import kept
from wherefrom.interventions import Flips, FlipSet, Robustness, find_flips
from wherefrom.percentages import percentage
from wherefrom.plain_text import count_of
from wherefrom.report import Card, Cards, Cell, Column, Columns, Section, Shown, Table, Words
from wherefrom.report.blocks import Tone
from wherefrom.report.numbers import number, percent
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.selection import spread_queries
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet, table_of
from wherefrom.studies.task import Task

_RETRAINED = "the sets were retrained without, as far as they are marked so"
# Training examples shown of each set.
_SHOWN = 8
_WIDEST = 10


@dataclass(frozen=True)
class Flip(Study):
    """What would flip this prediction? Find the smallest set of training examples without which each query is
    predicted otherwise, and the share of predictions that fall to removing so little.
    """

    name: ClassVar[str] = "flip"
    question: ClassVar[str] = "What would flip these predictions?"
    lead: ClassVar[str] = (
        "For each query, the smallest set of training examples found without which the model would predict "
        "something else. A prediction that rests on a handful of examples is one to look at."
    )

    queries: int = option(50, "Queries at most, spread evenly over all.", least=1)
    max_share: float = option(0.01, "Largest set, as a share of the training set.")
    confirm: bool | None = option(
        None,
        "Retrain without each set (default: if the task has a recipe).",
        flag="--confirm/--no-confirm",
    )
    retrainings: int = option(3, "Per query at most; each one enlarges the set that failed.", least=1)
    top: int = option(12, "Queries listed and shown, smallest sets first.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_share < 1:
            raise InputError(f"max_share={self.max_share}: expected a number above 0 and below 1, as 0.01")

    def check(self, task: Task) -> None:
        """Refuse to confirm without a recipe."""
        if self.confirm and task.recipe is None:
            raise InputError(
                f"--confirm retrains, and the task {task.name!r} defines no recipe(train, seed) -> model. "
                "Add one, or pass --no-confirm."
            )

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> FlipResult:
        """The sets, and what retraining says of them.

        Raises:
            UnsupportedError: a loss without classes, or a method without gradients.
        """
        fitted = as_fit(attributor, "flip")
        confirm = task.recipe is not None if self.confirm is None else self.confirm
        queries, numbers = spread_queries(fitted, task.queries, self.queries)
        n = fitted.objective.n
        # The tolerance is for shares such as 0.07 whose product with n falls short of a whole number.
        most = max(1, min(int(self.max_share * n * (1 + 1e-12)), n - 1))
        say(f"{task.name}: smallest sets, up to {most:,} of {n:,}, for {len(numbers)} predictions")
        flips = self._found(fitted, queries, most, task)
        if confirm and task.recipe is not None:
            count = sum(one.size is not None for one in flips)
            say(f"{task.name}: retraining without each of {count} sets")
            flips = flips.confirm(task.recipe, retrainings=self.retrainings, seed=task.seeds[0])
        shares = tuple(self.max_share * part for part in (0.1, 0.5, 1.0))
        return FlipResult(
            task.name,
            task.class_names,
            flips,
            flips.robustness(shares),
            train_cards(task, fitted),
            query_cards(task, fitted, queries, numbers),
            numbers,
            self.top,
            trust_of(fitted, retrained=_RETRAINED) if confirm else trust_of(fitted),
        )

    @staticmethod
    def _found(fitted: Fit, queries: Any, most: int, task: Task) -> Flips:
        def search() -> tuple[tuple[FlipSet, ...], str]:
            flips = find_flips(fitted, queries, max_size=most, reduction=task.reduction)
            return flips.sets, flips.order

        sets, order = kept(fitted, "flips", search, of=[most, task.reduction], queries=queries)
        return Flips(sets, fitted.objective.n, most, order, task.reduction, fitted, queries)


@dataclass(frozen=True)
class FlipResult(Result):
    """What was found for a task.

    Attributes:
        name, class_names: of the task.
        flips: one answer per query.
        robustness: for a tenth, a half and the whole of the share looked for.
        train_card, query_card: from an index to what people see of the example.
        numbers: of the queries among all of the task's.
        top: queries listed.
        trust: how far the fit behind it may be trusted.
    """

    name: str
    class_names: Sequence[str] | None
    flips: Flips
    robustness: Robustness
    train_card: Callable[[int], Card]
    query_card: Callable[[int], Card]
    numbers: list[int]
    top: int
    trust: Trust

    def smallest(self) -> list[FlipSet]:
        """The queries with a set, smallest first."""
        found = [one for one in self.flips if one.size is not None]
        return sorted(found, key=lambda one: (one.confirmed_size or one.size or 0, one.margin))[: self.top]

    def section(self) -> Section:
        """The robustness figure, and the queries that fall to the fewest examples."""
        flips, robustness, smallest = self.flips, self.robustness, self.smallest()
        found = sum(one.size is not None for one in flips)
        blocks: list[Any] = [
            Words(
                f"A set was looked for among up to {flips.most:,} of {robustness.n:,} training examples, for "
                f"{robustness.queries:,} predictions, and found for {found:,}.",
                lead=robustness.words,
                heading="How little it takes",
            ),
            self._shares(),
        ]
        if smallest:
            blocks += [
                Cards(
                    [self._shown(one) for one in smallest],
                    heading="The predictions that rest on the fewest examples",
                    where="page",
                ),
                self._table(smallest),
                Words(self._rests(smallest[0]), tone="muted", where="terminal"),
            ]
        else:
            blocks.append(
                Words(
                    f"No set of up to {count_of(flips.most, 'training example')} is predicted to flip one of "
                    "these predictions. Look further with a larger --max-share."
                )
            )
        blocks.append(Columns(self._notes(), where="page"))
        return Section(self.name, self.trust, blocks)

    def _shares(self) -> Table:
        found, sure = self.robustness, self.robustness.confirmed
        columns = [
            Column("removed", left=True),
            Column("examples"),
            Column("predicted to fall", tone="helpful"),
            *([] if sure is None else [Column("confirmed by retraining", tone="good")]),
        ]
        rows: list[list[str | Cell]] = [
            [
                f"≤ {100 * share:g} %",
                f"{int(share * found.n * (1 + 1e-12)):,}",
                *(Cell(percent(part[j]), bar=part[j]) for part in (found.predicted, sure) if part),
            ]
            for j, share in enumerate(found.shares)
        ]
        return Table(columns, rows)

    def _shown(self, one: FlipSet) -> Shown:
        card, check = self.query_card(one.query), one.confirmation
        tone, outcome = outcome_words(one)
        caption: list[tuple[str, Tone]] = [(one.name(one.predicted, self.class_names), "strong")]
        if card.probability is not None:
            caption.append((f"with {percent(card.probability)}", "muted"))
        caption += [
            ("turns to", "muted"),
            (one.name(one.rival, self.class_names), "harmful"),
            ("without", "muted"),
            (f"{one.size:,}", "strong"),
            (f"({percentage(one.share or 0.0)} of the training set):", "muted"),
            (outcome if check is not None else "not retrained", tone),
        ]
        lines = [("Margin", number(one.margin, 3)), ("Predicted without them", number(one.margin_after, 3))]
        if card.label is not None:
            lines.insert(0, ("True label", card.label))
        if check is not None and check.margin is not None:
            lines.append(("Retrained without them", number(check.margin, 3)))
        if self.flips.order == "newton":
            by_scores = "more" if one.first_size is None else f"{one.first_size:,}"
            lines.append(("Size by single scores", by_scores))
        hidden = len(one.indices) - _SHOWN
        return Shown(
            card,
            caption,
            lines,
            words=one.describe(self.class_names),
            blocks=[
                Cards([Shown(self.train_card(i)) for i in one.indices[:_SHOWN]], dense=True),
                *([Words(f"and {hidden:,} more", tone="muted")] if hidden > 0 else []),
            ],
        )

    def _table(self, smallest: list[FlipSet]) -> Table:
        newton = self.flips.order == "newton"
        columns = [
            Column("query"),
            Column("predicted", left=True, width=_WIDEST),
            Column("turns to", left=True, width=_WIDEST),
            Column("margin"),
            *([Column("single scores")] if newton else []),
            Column("size"),
            Column("retrained", left=True),
        ]
        rows: list[list[str | Cell]] = []
        for one in smallest:
            tone, outcome = outcome_words(one)
            rows.append(
                [
                    str(self.numbers[one.query]),
                    one.name(one.predicted, self.class_names),
                    Cell(one.name(one.rival, self.class_names), "helpful"),
                    number(one.margin, 3),
                    *(["–" if one.first_size is None else f"{one.first_size:,}"] if newton else []),
                    Cell(f"{one.size:,}", "strong"),
                    Cell(outcome, tone),
                ]
            )
        notes = ["margin: logit of the prediction minus that of its closest rival"]
        if newton:
            notes.append("single scores: the size that adding them up says")
            notes.append("size: by refits of the linear model after each candidate set")
        return Table(columns, rows, note="\n".join(notes), shown=len(rows), where="terminal")

    def _rests(self, first: FlipSet) -> str:
        shown = ", ".join(str(i) for i in first.indices[:_SHOWN])
        more = f" and {len(first.indices) - _SHOWN} more" if len(first.indices) > _SHOWN else ""
        examples = "example" if len(first.indices) == 1 else "examples"
        return f"query {self.numbers[first.query]} rests on training {examples} {shown}{more}."

    def _notes(self) -> list[tuple[str, str]]:
        newton = (
            "The model is linear in what is studied: after each candidate set it is refitted with Newton's "
            "steps, and the examples are ranked anew from there, until the smallest prefix of the ranking "
            "that flips the prediction is known."
        )
        first = (
            "Training examples are ranked by their score for the decision margin, and the changes they are "
            "predicted to make are added up until the margin crosses zero. Sums of single scores tend to "
            "fall short, so sets may be larger than needed."
        )
        margin = "The margin is the logit of the predicted class minus that of its closest rival."
        decides = (
            "Retraining without the set decides. Where the set did not suffice it was enlarged along its "
            "ranking and tried again. "
        )
        bound = (
            "Finding the smallest set of all is a combinatorial problem: there may be smaller ones, so the "
            "shares above are lower bounds of how many predictions would fall."
        )
        asked = self.robustness.confirmed is not None
        return [
            ("How a set is found.", f"{newton if self.flips.order == 'newton' else first} {margin}"),
            ("What it says.", decides + bound if asked else bound),
        ]

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`flips.csv`: one row per query."""
        return {"flips": table_of(self._rows())}

    def summary(self) -> dict[str, Any]:
        """With the sets."""
        robustness = self.robustness
        return {
            "n": robustness.n,
            "queries": robustness.queries,
            "order": self.flips.order,
            "reduction": self.flips.reduction,
            "largest_set": self.flips.most,
            "robustness": {
                "shares": robustness.shares,
                "predicted": robustness.predicted,
                "confirmed": robustness.confirmed,
                "words": robustness.words,
            },
            "sets": [
                {
                    **row,
                    "indices": one.indices,
                    "tried": None if one.confirmation is None else one.confirmation.tried,
                    "failed": None if one.confirmation is None else one.confirmation.failed,
                    "words": one.describe(self.class_names),
                }
                for one, row in zip(self.flips, self._rows())
            ],
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [{**one.row(), "query": number} for one, number in zip(self.flips, self.numbers)]


def outcome_words(one: FlipSet) -> tuple[Tone, str]:
    """What retraining said of a set: a tone (good where it flipped) and a few words."""
    check = one.confirmation
    if check is None:
        return "muted", "not asked"
    if not check.stable:
        return "fair", "differs anyway"
    if check.hidden:
        return "fair", "cannot tell"
    if check.size is None:
        return "poor", "no run converged" if len(check.failed) == len(check.tried) else "not flipped"
    return ("good", "flipped") if check.size == one.size else ("fair", f"flipped by {check.size:,}")
