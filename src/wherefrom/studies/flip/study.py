"""`wherefrom flip`: the smallest sets of training examples that flip predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Trust, as_fit, trust_of
from wherefrom.interventions import Flips, FlipSet, Robustness, find_flips
from wherefrom.report import Card, Section
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.flip.panel import flip_panel
from wherefrom.studies.flip.printed import printed
from wherefrom.studies.selection import spread_queries
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet
from wherefrom.studies.task import Task

_RETRAINED = "the sets were retrained without, as far as they are marked so"


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
        flips = find_flips(fitted, queries, max_size=most, reduction=task.reduction)
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
        flips = self.flips
        panel = flip_panel(
            self.smallest(),
            self.robustness,
            self.train_card,
            self.query_card,
            order=flips.order,
            most=flips.most,
            found=sum(one.size is not None for one in flips),
            class_names=self.class_names,
        )
        return Section(self.name, self.trust, [replace(panel, printed=printed(self))])

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`flips.csv`: one row per query."""
        rows = self._rows()
        return {"flips": (list(rows[0]), ([_text(v) for v in row.values()] for row in rows))}

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


def _text(value: object) -> object:
    return "" if value is None else value
