"""From a task and edits to what they would change: files and a page. No mathematics, no printing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from wherefrom.api import Influence
from wherefrom.cli.edit_checks import check_edits
from wherefrom.cli.edit_words import parse_indices, parse_label, parse_pair, parse_times
from wherefrom.cli.grow import parse_sizes
from wherefrom.errors import InputError
from wherefrom.influence import Trust, resolve_measurement, trust_of
from wherefrom.influence.measurements import measured_now
from wherefrom.interventions import Change, Intervention, Order, Outcome, RemovalCurve, removal_curve
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.losses import Logistic, SmoothHinge
from wherefrom.report import Card, write_panels
from wherefrom.report.change_panel import change_panel
from wherefrom.report.describe import label_text
from wherefrom.report.files import write_table
from wherefrom.report.growth_panel import growth_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.selection import choose_queries
from wherefrom.studies.task import Task

TITLE = "What would change?"
LEAD = (
    "A change of the training data, and what it does to each query: predicted from the trained model, and, "
    "where it was asked, by training again."
)
_NOTHING = (
    "nothing is changed: expected at least one of --remove 17,212, --relabel 5=3, --upweight 8=2, or a "
    "function change(influence) in the task file that returns an intervention"
)


@dataclass(frozen=True)
class ChangeOptions:
    """What the command line chooses.

    Attributes:
        remove, relabel, upweight: the edits as written, see `wherefrom.cli.edit_words`.
        order: of the prediction.
        reduction: `"mean"` or `"sum"`; the task's when `None`.
        retrain: carry it out with the recipe.
        grow: sizes at which the removal of the first so many of `remove` is looked at by itself.
        queries: at most, those of largest loss.
        solver: name of a solver, instead of the task's.
        progress: show progress bars.
    """

    remove: tuple[str, ...] = ()
    relabel: tuple[str, ...] = ()
    upweight: tuple[str, ...] = ()
    order: str = "auto"
    reduction: str | None = None
    retrain: bool = False
    queries: int = 8
    grow: str | None = None
    solver: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("order", self.order, get_args(Order)),
            ("reduction", self.reduction, (None, *get_args(Reduction))),
        ):
            if value not in known:
                words = ", ".join(repr(word) for word in known if word is not None)
                raise InputError(f"{name}={value!r}: expected one of {words}")
        if self.queries < 1:
            raise InputError(f"queries={self.queries}: expected at least 1")


@dataclass(frozen=True)
class Edited:
    """A training example that is changed, for people: its index and what is done to it."""

    index: int
    done: str


@dataclass(frozen=True)
class ChangeResult:
    """What was found for a task.

    Attributes:
        task: as given.
        change: the prediction.
        outcome: with what retraining did, if it was asked.
        before: the measurement of each query under the given model.
        numbers: of the queries among all of the task's.
        train_card, query_card: from an index to what people see of the example.
        edited: the training examples that change.
        curve: of growing groups, where sizes were given.
        trust: how far the fit behind it may be trusted.
    """

    task: Task
    change: Change
    outcome: Outcome | None
    before: np.ndarray
    numbers: list[int]
    train_card: Callable[[int], Card]
    query_card: Callable[[int], Card]
    edited: list[Edited]
    curve: RemovalCurve | None = None
    trust: Trust | None = None


def run_change(
    task: Task,
    out: str | Path,
    options: ChangeOptions,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ChangeResult:
    """Write `report.html`, `change.csv` (one row per query), `change.json` and, for growing groups,
    `growth.csv`; finished retrainings are kept under `run/`.

    Raises:
        InputError: retraining without a recipe, edits that cannot be read or made; whatever is wrong with
            the task.
    """
    out = Path(out)
    if options.retrain and task.recipe is None:
        raise InputError(
            f"--retrain needs a recipe, and the task {task.name!r} defines no recipe(train, seed) -> model. "
            "Add one, or leave --retrain out."
        )
    check_edits(task, options.remove, options.relabel, options.upweight)
    ranking = [i for text in options.remove for i in parse_indices(text, "--remove")]
    parse_sizes(options.grow, len(ranking))
    if not (options.remove or options.relabel or options.upweight or task.change is not None):
        raise InputError(_NOTHING)
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress, run_dir=out / "run")
    intervention, edited = _edits(task, influence, options)
    if not edited and not intervention.edits.added:
        raise InputError(_NOTHING)
    queries, numbers = choose_queries(influence, task.queries, options.queries)
    how: dict[str, Any] = {
        "order": cast(Order, options.order),
        "reduction": task.reduction if options.reduction is None else options.reduction,
    }
    on_stage(f"{task.name}: predicting the change of {len(numbers)} queries")
    if options.retrain and task.recipe is not None:
        on_stage(f"{task.name}: retraining on the given and on the edited data")
        outcome = intervention.retrain(task.recipe, queries, task.measurement, seeds=task.seeds, **how)
        change = outcome.change
    else:
        outcome, change = None, intervention.change(queries, task.measurement, **how)
    curve = _curve(task, influence, options, queries, how, on_stage)
    result = ChangeResult(
        task,
        change,
        outcome,
        _measured(influence, queries, task.measurement),
        numbers,
        train_cards(task, influence),
        query_cards(task, influence, queries, numbers),
        edited,
        curve,
        trust_of(
            influence,
            converged=change.converged,
            retraining=None if outcome is None else outcome.verdict,
        ),
    )
    on_stage("writing the page")
    _write(result, out)
    panel = change_panel(
        change,
        outcome,
        result.before,
        result.query_card,
        [(result.train_card(one.index), one.done) for one in edited[:_CARDS]],
        more=max(0, len(edited) - _CARDS),
    )
    panels = [panel] if curve is None else [panel, growth_panel(curve)]
    write_panels(out / "report.html", panels, TITLE, LEAD, result.trust)
    return result


# Edited examples shown on the page.
_CARDS = 12


def _edits(task: Task, influence: Influence, options: ChangeOptions) -> tuple[Intervention, list[Edited]]:
    made = Intervention(influence)
    edited: list[Edited] = []
    for text in options.remove:
        indices = parse_indices(text, "--remove")
        made = made.remove(indices)
        edited += [Edited(i, "removed") for i in indices]
    for text in options.relabel:
        indices, word = parse_pair(text, "--relabel", "5=3")
        loss = influence.objective.loss
        label = parse_label(word, task.class_names, signed=isinstance(loss, (Logistic, SmoothHinge)))
        made = made.relabel(indices, label)
        name = label_text(torch.tensor([label]), task.class_names, loss)
        edited += [Edited(i, f"relabelled {name}") for i in indices]
    for text in options.upweight:
        indices, word = parse_pair(text, "--upweight", "8=2")
        made = made.upweight(indices, parse_times(word))
        edited += [Edited(i, f"counts {parse_times(word):g} times") for i in indices]
    if task.change is not None:
        own = task.change(influence)
        if not isinstance(own, Intervention):
            raise InputError(
                f"change(influence) of the task returned a {type(own).__name__}; expected an intervention, "
                "such as influence.replace([3], examples)"
            )
        made = made & own
        edited += [Edited(i, _done(own, i)) for i in own.edits.touched]
    return made, edited


def _done(made: Intervention, i: int) -> str:
    """What an intervention does to a training example, in words."""
    weight = made.edits.weights.get(i, 1.0)
    if weight == 0:
        return "removed"
    parts = ["another content"] if i in made.edits.contents else []
    return ", ".join([*parts, *([] if weight == 1 else [f"counts {weight:g} times"])])


def _curve(
    task: Task,
    influence: Influence,
    options: ChangeOptions,
    queries: Any,
    how: dict[str, Any],
    on_stage: Callable[[str], None],
) -> RemovalCurve | None:
    ranking = [i for text in options.remove for i in parse_indices(text, "--remove")]
    sizes = parse_sizes(options.grow, len(ranking))
    if not sizes:
        return None
    on_stage(f"{task.name}: removing the first {', '.join(map(str, sizes))}")
    return removal_curve(
        influence,
        ranking,
        sizes,
        queries,
        task.recipe if options.retrain else None,
        measurement=task.measurement,
        prediction=how["order"],
        reduction=how["reduction"],
        seeds=task.seeds,
    )


def _measured(influence: Influence, queries: Any, measurement: Any) -> np.ndarray:
    """The measurement under the given model."""
    objective = influence.objective
    examples = objective.read(queries, role="queries")
    measured = resolve_measurement(measurement, objective.loss)
    return measured_now(objective, examples, measured).numpy()


def _write(result: ChangeResult, out: Path) -> None:
    found = result.change if result.outcome is None else result.outcome
    table = found.to_pandas()
    table["query"] = result.numbers
    table.insert(1, "before", result.before)
    rows = (tuple(row) for row in table.itertuples(index=False, name=None))
    write_table(out / "change.csv", list(table.columns), rows)
    if result.curve is not None:
        grown = result.curve.to_pandas()
        write_table(out / "growth.csv", list(grown.columns), grown.itertuples(index=False, name=None))
    summary = {
        "name": result.task.name,
        "queries": result.numbers,
        "edited": [{"train": one.index, "done": one.done} for one in result.edited],
        **found.summary(),
        "trust": None if result.trust is None else result.trust.as_dict(),
        "settings": result.change.settings,
    }
    write_atomically(out / "change.json", dump_json(summary, indent=2) + "\n")
