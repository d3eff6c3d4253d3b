"""`wherefrom change`: what a change of the training data would do, predicted and retrained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast, get_args

import numpy as np

from wherefrom import interventions
from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Fit, Trust, as_fit, trust_of
from wherefrom.influence.kept import kept
from wherefrom.interventions import Intervention, Order, Outcome, RemovalCurve, removal_curve
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.report import Card, Section
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.change.edit_checks import AskedEdit, asked_edits, check_edits
from wherefrom.studies.change.edit_words import parse_indices, parse_sizes
from wherefrom.studies.change.shown import change_blocks
from wherefrom.studies.selection import choose_queries
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet, table_of
from wherefrom.studies.task import Task
from wherefrom.task import Data

_NOTHING = (
    "nothing is changed: expected at least one of --remove 17,212, --relabel 5=3, --upweight 8=2, or a "
    "function change(influence) in the task file that returns an intervention"
)


@dataclass(frozen=True)
class DataChange(Study):
    """What would happen if the training data were changed? Predict it for each query, and retrain to see.

    Edits compose: --remove 17,212 --relabel 5=3 --upweight 8=2 is one change.
    """

    name: ClassVar[str] = "change"
    question: ClassVar[str] = "What would change?"
    lead: ClassVar[str] = (
        "A change of the training data, and what it does to each query: predicted from the trained model, "
        "and, where it was asked, by training again."
    )

    remove: tuple[str, ...] = option(
        (), "Training examples to take out: 17,212 or 10-20 or @file of indices."
    )
    relabel: tuple[str, ...] = option(
        (), "Give others a label: 5=3, 10-20=cat. May be repeated, as all edits."
    )
    upweight: tuple[str, ...] = option((), "Let others count more or less often: 8=2.")
    order: str = option(
        "auto", "Of the prediction: first, second, newton, optimum, or auto.", choices=get_args(Order)
    )
    reduction: str | None = option(
        None, "What the recipe minimises: mean or sum (default: the task's).", choices=get_args(Reduction)
    )
    retrain: bool = option(False, "Carry it out with the task's recipe, and compare.")
    grow: str | None = option(None, "Remove the first 1,5,20 of --remove as well: how far to trust it.")
    queries: int = option(8, "Queries at most: those of largest loss.", least=1)

    def check(self, task: Task) -> None:
        """Refuse edits that cannot be read or made, and retraining without a recipe."""
        if self.retrain and task.recipe is None:
            raise InputError(
                f"--retrain needs a recipe, and the task {task.name!r} defines no recipe(train, seed) -> "
                "model. Add one, or leave --retrain out."
            )
        check_edits(self.asked(task), Data(task.train))
        parse_sizes(self.grow, len(self._ranking))
        if not (self.remove or self.relabel or self.upweight or task.change is not None):
            raise InputError(_NOTHING)

    def asked(self, task: Task) -> list[AskedEdit]:
        """The edits that the options name."""
        return asked_edits(task, self.remove, self.relabel, self.upweight)

    @property
    def _ranking(self) -> list[int]:
        return [i for text in self.remove for i in parse_indices(text, "--remove")]

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> ChangeResult:
        """The prediction, and what retraining did where it was asked.

        Raises:
            InputError: nothing is changed.
            UnsupportedError: a method without gradients.
        """
        fitted = as_fit(attributor, "change")
        intervention, edited = _edits(task, fitted, self)
        if not edited and not intervention.edits.added:
            raise InputError(_NOTHING)
        queries, numbers = choose_queries(fitted, task.queries, self.queries)
        order = cast(Order, self.order)
        reduction = task.reduction if self.reduction is None else cast(Reduction, self.reduction)
        say(f"{task.name}: predicting the change of {len(numbers)} queries")
        outcome = None
        if self.retrain and task.recipe is not None:
            say(f"{task.name}: retraining on the given and on the edited data")
            outcome = intervention.retrain(
                task.recipe, queries, task.measurement, seeds=task.seeds, order=order, reduction=reduction
            )
            change = outcome.change
        else:
            change = kept(
                fitted,
                "predicted change",
                lambda: intervention.change(queries, task.measurement, order=order, reduction=reduction),
                of=[intervention.edits, order, reduction],
                queries=queries,
                measurement=task.measurement,
            )
        assert change.before is not None  # every prediction of an intervention knows it
        return ChangeResult(
            task.name,
            change,
            outcome,
            change.before.numpy(),
            numbers,
            train_cards(task, fitted),
            query_cards(task, fitted, queries, numbers),
            edited,
            self._curve(task, fitted, queries, order, reduction, say),
            trust_of(
                fitted,
                converged=change.converged,
                retraining=None if outcome is None else outcome.verdict,
            ),
        )

    def _curve(
        self, task: Task, fitted: Fit, queries: Any, order: Order, reduction: Reduction, say: Say
    ) -> RemovalCurve | None:
        sizes = parse_sizes(self.grow, len(self._ranking))
        if not sizes:
            return None
        say(f"{task.name}: removing the first {', '.join(map(str, sizes))}")
        return removal_curve(
            fitted,
            self._ranking,
            sizes,
            queries,
            task.recipe if self.retrain else None,
            measurement=task.measurement,
            prediction=order,
            reduction=reduction,
            seeds=task.seeds,
        )


@dataclass(frozen=True)
class DataEdits:
    """A training example that is changed, for people: its index and what is done to it."""

    index: int
    done: str


@dataclass(frozen=True)
class ChangeResult(Result):
    """What was found for a task.

    Attributes:
        name: of the task.
        change: the prediction.
        outcome: with what retraining did, if it was asked.
        before: the measurement of each query under the given model.
        numbers: of the queries among all of the task's.
        train_card, query_card: from an index to what people see of the example.
        edited: the training examples that change.
        curve: of growing groups, where sizes were given.
        trust: how far the fit behind it may be trusted.
    """

    name: str
    change: interventions.Change
    outcome: Outcome | None
    before: np.ndarray
    numbers: list[int]
    train_card: Callable[[int], Card]
    query_card: Callable[[int], Card]
    edited: list[DataEdits]
    curve: RemovalCurve | None
    trust: Trust

    def with_trust(self, trust: Trust) -> ChangeResult:
        """The prediction says no more than its head."""
        change = replace(self.change, trust=trust)
        outcome = None if self.outcome is None else replace(self.outcome, change=change)
        return replace(self, change=change, outcome=outcome, trust=trust)

    def section(self) -> Section:
        """Each query's change, and the curve of growing groups."""
        return Section(self.name, self.trust, change_blocks(self))

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`change.csv`: one row per query; `growth.csv` for growing groups."""
        table = (self.change if self.outcome is None else self.outcome).to_pandas()
        table["query"] = self.numbers
        table.insert(1, "before", self.before)
        grown = {} if self.curve is None else {"growth": self.curve.to_pandas()}
        tables = {"change": table, **grown}
        return {name: table_of(made.to_dict("records")) for name, made in tables.items()}

    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        found = self.change if self.outcome is None else self.outcome
        return {
            "queries": self.numbers,
            "edited": [{"train": one.index, "done": one.done} for one in self.edited],
            **found.summary(),
            "settings": self.change.settings,
        }


def _edits(task: Task, influence: Fit, options: DataChange) -> tuple[Intervention, list[DataEdits]]:
    made = Intervention(influence)
    edited: list[DataEdits] = []
    for one in options.asked(task):
        made = getattr(made, one.kind)(one.indices, *one.values)
        edited += [DataEdits(i, one.done) for i in one.indices]
    if task.change is not None:
        own = task.change(influence)
        if not isinstance(own, Intervention):
            raise InputError(
                f"change(influence) of the task returned a {type(own).__name__}; expected an intervention, "
                "such as influence.replace([3], examples)"
            )
        made = made & own
        edited += [DataEdits(i, _done(own, i)) for i in own.edits.touched]
    return made, edited


def _done(made: Intervention, i: int) -> str:
    """What an intervention does to a training example, in words."""
    weight = made.edits.weights.get(i, 1.0)
    if weight == 0:
        return "removed"
    parts = ["another content"] if i in made.edits.contents else []
    return ", ".join([*parts, *([] if weight == 1 else [f"counts {weight:g} times"])])
