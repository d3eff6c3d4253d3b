"""From a task to the sets that flip its predictions: files and a page. No mathematics, no printing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wherefrom.errors import InputError
from wherefrom.influence import Trust, trust_of
from wherefrom.interventions import Flips, FlipSet, Robustness
from wherefrom.report import Card, write_panels
from wherefrom.report.files import write_table
from wherefrom.report.flip_panel import flip_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.selection import spread_queries
from wherefrom.studies.task import Task

TITLE = "What would flip these predictions?"
LEAD = (
    "For each query, the smallest set of training examples found without which the model would predict "
    "something else. A prediction that rests on a handful of examples is one to look at."
)

_RETRAINED = "the sets were retrained without, as far as they are marked so"


@dataclass(frozen=True)
class FlipOptions:
    """What the command line chooses.

    Attributes:
        queries: at most, spread evenly over all.
        max_share: of the training set, largest set looked for.
        confirm: retrain without each set; `None`: if the task has a recipe.
        retrainings: per query at most.
        top: queries listed and shown.
        solver: name of a solver, instead of the task's.
        progress: show progress bars.
    """

    queries: int = 50
    max_share: float = 0.01
    confirm: bool | None = None
    retrainings: int = 3
    top: int = 12
    solver: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("queries", "retrainings", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 < self.max_share < 1:
            raise InputError(f"max_share={self.max_share}: expected a number above 0 and below 1, as 0.01")


@dataclass(frozen=True)
class FlipResult:
    """What was found for a task.

    Attributes:
        task: as given.
        flips: one answer per query.
        robustness: for a tenth, a half and the whole of the share looked for.
        train_card, query_card: from an index to what people see of the example.
        numbers: of the queries among all of the task's.
        top: queries listed.
        trust: how far the fit behind it may be trusted.
    """

    task: Task
    flips: Flips
    robustness: Robustness
    train_card: Callable[[int], Card]
    query_card: Callable[[int], Card]
    numbers: list[int]
    top: int
    trust: Trust | None = None

    def smallest(self) -> list[FlipSet]:
        """The queries with a set, smallest first."""
        found = [one for one in self.flips if one.size is not None]
        return sorted(found, key=lambda one: (one.confirmed_size or one.size or 0, one.margin))[: self.top]


def run_flips(
    task: Task,
    out: str | Path,
    options: FlipOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> FlipResult:
    """Write `report.html`, `flips.csv` (one row per query) and `flips.json` (with the sets); finished
    retrainings are kept under `run/`.

    Raises:
        InputError: `confirm` without a recipe; whatever is wrong with the task.
    """
    options, out = options or FlipOptions(), Path(out)
    confirm = task.recipe is not None if options.confirm is None else options.confirm
    if confirm and task.recipe is None:
        raise InputError(
            f"--confirm retrains, and the task {task.name!r} defines no recipe(train, seed) -> model. Add "
            "one, or pass --no-confirm."
        )
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress, run_dir=out / "run")
    queries, numbers = spread_queries(influence, task.queries, options.queries)
    objective = influence.objective
    # The tolerance is for shares such as 0.07 whose product with n falls short of a whole number.
    most = max(1, min(int(options.max_share * objective.n * (1 + 1e-12)), objective.n - 1))
    on_stage(f"{task.name}: smallest sets, up to {most:,} of {objective.n:,}, for {len(numbers)} predictions")
    flips = influence.flip(queries, max_size=most, reduction=task.reduction)
    if confirm and task.recipe is not None:
        count = sum(one.size is not None for one in flips)
        on_stage(f"{task.name}: retraining without each of {count} sets")
        flips = flips.confirm(task.recipe, retrainings=options.retrainings, seed=task.seeds[0])
    shares = tuple(options.max_share * part for part in (0.1, 0.5, 1.0))
    result = FlipResult(
        task,
        flips,
        flips.robustness(shares),
        train_cards(task, influence),
        query_cards(task, influence, queries, numbers),
        numbers,
        options.top,
        trust_of(influence, retrained=_RETRAINED) if confirm else trust_of(influence),
    )
    on_stage("writing the page")
    _write(result, out)
    panel = flip_panel(
        result.smallest(),
        result.robustness,
        result.train_card,
        result.query_card,
        order=flips.order,
        most=flips.most,
        found=sum(one.size is not None for one in flips),
        class_names=task.class_names,
    )
    write_panels(out / "report.html", [panel], TITLE, LEAD, result.trust)
    return result


def _write(result: FlipResult, out: Path) -> None:
    rows = [{**one.row(), "query": number} for one, number in zip(result.flips, result.numbers)]
    write_table(out / "flips.csv", list(rows[0]), ([_text(v) for v in row.values()] for row in rows))
    robustness = result.robustness
    summary = {
        "name": result.task.name,
        "n": robustness.n,
        "queries": robustness.queries,
        "order": result.flips.order,
        "reduction": result.flips.reduction,
        "largest_set": result.flips.most,
        "robustness": {
            "shares": robustness.shares,
            "predicted": robustness.predicted,
            "confirmed": robustness.confirmed,
            "words": robustness.words,
        },
        "trust": None if result.trust is None else result.trust.as_dict(),
        "sets": [
            {
                **row,
                "indices": one.indices,
                "tried": None if one.confirmation is None else one.confirmation.tried,
                "failed": None if one.confirmation is None else one.confirmation.failed,
                "words": one.describe(result.task.class_names),
            }
            for one, row in zip(result.flips, rows)
        ],
    }
    write_atomically(out / "flips.json", dump_json(summary, indent=2) + "\n")


def _text(value: object) -> object:
    return "" if value is None else value
