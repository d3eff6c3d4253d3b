"""From a task to an attack on its training set: which queries, within which budget; files and a page. No
mathematics and no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from whence.api import Influence
from whence.attack import AttackResult, Budget, PoisoningAudit, audit_poisoning, run_attack
from whence.attack.edited_data import edited_training_set
from whence.attack.head import head_obstacle
from whence.cli.files import write_table
from whence.cli.task_file import AuditTask
from whence.errors import InputError
from whence.influence.continuous_input import ContinuousInput, find_input
from whence.report import Describer, Panel, write_panels
from whence.report.poisoning_panel import attack_panel, poisoning_panel
from whence.store import write_atomically
from whence.store.json_values import dump_json
from whence.store.tensors import write_tensors
from whence.task import Objective, TrainingData, check_examples

TITLE = "Could somebody poison this model?"
LEAD = (
    "An audit of one's own model: training examples are edited within a small budget and the model is "
    "trained again, to see which of its predictions would not survive."
)
# What a task file may set by `attack = {...}`, beside the fields of `AttackOptions`.
_BUDGET = ("low", "high", "levels", "grid")
_BATCH = 256
_LEVELS = 256


@dataclass(frozen=True)
class AttackOptions:
    """What the command line or the task file chooses; fields that are `None` take the default of `CHOSEN`.

    Attributes:
        edits: numbers of edited training examples that are tried.
        budget: largest change, in grey levels of 256 between the ends of the valid range; a `Budget` in a
            task file says it all.
        norm: `"linf"` or `"l2"`.
        steps: of each attack, at most.
        queries: queries attacked, spread over those given.
        together: attack all of them at once, with the largest of `edits`.
        solver: name of a solver, instead of the task's.
        progress: show progress bars.
        more: other settings of the task file: `low`, `high`, `levels`, `grid`, `step_size`, `candidates`,
            `refit_every`.
    """

    edits: tuple[int, ...] | None = None
    budget: float | int | Budget | None = None
    norm: Literal["linf", "l2"] | str | None = None
    steps: int | None = None
    queries: int | None = None
    together: bool | None = None
    solver: str | None = None
    progress: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)


CHOSEN = AttackOptions(edits=(1, 2, 10), budget=0.5, norm="linf", steps=40, queries=100, together=False)
_OWN = ("edits", "budget", "norm", "steps", "queries", "together")
_MORE = (*_BUDGET, "step_size", "candidates", "refit_every")


@dataclass(frozen=True)
class AttackReport:
    """What was found, and how it is shown.

    Attributes:
        task: attacked.
        found: attacks on each query by itself, or one on all of them.
        numbers: of the attacked queries among the task's.
        panel: its block of a page.
        remark: what the reader should know of the choice between the two; may be empty.
    """

    task: AuditTask
    found: PoisoningAudit | AttackResult
    numbers: list[int]
    panel: Panel
    remark: str


def settled(task: AuditTask, options: AttackOptions) -> AttackOptions:
    """The command line's choices over the task file's, and those over the defaults.

    Raises:
        InputError: an unknown name in the task file's `attack`, or a value out of range.
    """
    unknown = sorted(set(task.attack) - {*_OWN, *_MORE})
    if unknown:
        raise InputError(
            f"attack= of the task gives {', '.join(map(repr, unknown))}; expected only "
            f"{', '.join((*_OWN, *_MORE))}"
        )
    chosen = {}
    for name in _OWN:
        given = getattr(options, name)
        given = task.attack.get(name) if given is None else given
        chosen[name] = getattr(CHOSEN, name) if given is None else given
    edits = chosen["edits"]
    chosen["edits"] = (edits,) if isinstance(edits, int) else tuple(edits)
    if not chosen["edits"] or min(chosen["edits"]) < 1:
        raise InputError(f"edits={edits!r}: expected numbers of training examples, each at least 1")
    if chosen["norm"] not in ("linf", "l2"):
        raise InputError(f"norm={chosen['norm']!r}: expected 'linf' or 'l2'")
    if chosen["queries"] < 1:
        raise InputError(f"queries={chosen['queries']}: expected at least 1")
    more = {name: task.attack[name] for name in _MORE if name in task.attack}
    return replace(options, **chosen, more={**more, **options.more})


def find_attack(
    task: AuditTask,
    influence: Influence,
    options: AttackOptions,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> AttackReport:
    """Attack a fitted task.

    A head on frozen features is attacked query by query. Any other model is attacked on all queries at once,
    since each retraining then runs the task's recipe.

    Raises:
        InputError: as `run_attack` and `audit_poisoning`; a model that is no head without a recipe.
    """
    where = require_attackable(task, influence, options)
    options = settled(task, options)
    fitted, objective = influence.fitted, influence.objective
    budget = make_budget(objective, where, options)
    examples = objective.read(task.queries, role="queries")
    check_examples(objective, examples, batch_size=_BATCH, progress=False)
    assert options.queries is not None and options.edits is not None and options.steps is not None
    numbers = examples.spread(min(options.queries, len(examples)))
    data = TrainingData(task.queries, len(examples))
    queries = data.stack([data.item(i) for i in numbers])
    obstacle = head_obstacle(fitted)
    cards = (
        Describer(objective, task.train, objective.examples, "train", task.describe_train, task.class_names),
        Describer(
            objective,
            queries,
            objective.read(queries, role="queries"),
            "query",
            task.describe_query,
            task.class_names,
            numbers,
        ),
    )
    shared: dict[str, Any] = {
        "budget": budget,
        "steps": options.steps,
        "measurement": task.measurement,
        **{name: options.more[name] for name in ("step_size", "candidates") if name in options.more},
    }
    if obstacle is None and not options.together:
        on_stage(f"{task.name}: attacking {len(numbers)} queries, each by itself")
        audit = audit_poisoning(fitted, queries, edits=options.edits, **shared)
        panel = poisoning_panel(audit, *cards, class_names=task.class_names)
        return AttackReport(task, audit, numbers, panel, "")
    on_stage(f"{task.name}: attacking {len(numbers)} queries at once")
    left = [i for i in range(len(examples)) if i not in set(numbers)]
    controls = task.validation
    if controls is None and left:
        controls = data.stack([data.item(i) for i in left])
    if obstacle is not None:
        shared["refit_every"] = options.more.get("refit_every", max(1, options.steps // 4))
    result = run_attack(
        fitted,
        task.train,
        queries,
        edits=max(options.edits),
        controls=controls,
        recipe=task.recipe,
        seeds=task.seeds,
        **shared,
    )
    remark = (
        ""
        if obstacle is None
        else f"All queries were attacked at once, and the recipe trained again between steps: {obstacle}."
    )
    return AttackReport(
        task, result, numbers, attack_panel(result, *cards, class_names=task.class_names), remark
    )


def require_attackable(task: AuditTask, influence: Influence, options: AttackOptions) -> ContinuousInput:
    """What is asked before anything long: are the inputs continuous, can an edit be written into this
    training set, and can the model be trained again?

    Raises:
        InputError: no, and why.
    """
    settled(task, options)
    objective = influence.objective
    where = find_input(objective)
    first = torch.tensor([0])
    edited_training_set(
        objective, task.train, where, first, where.read(objective.examples.batch(first)).detach()
    )
    obstacle = head_obstacle(influence.fitted)
    if obstacle is not None and task.recipe is None:
        raise InputError(
            f"recipe= is needed to retrain this model for an attack: {obstacle}. Define recipe(train, "
            "seed) -> model, or study the last linear layer alone (parameters=) with its weight_decay"
        )
    return where


def make_budget(objective: Objective, where: ContinuousInput, options: AttackOptions) -> Budget:
    """The budget asked for, in grey levels between the ends of the valid range: by default the smallest and
    largest value of the training inputs."""
    if isinstance(options.budget, Budget):
        return options.budget
    low, high = options.more.get("low"), options.more.get("high")
    if low is None or high is None:
        ends = []
        for _, batch in objective.examples.batches(_BATCH):
            x = where.read(batch)
            ends.append((float(x.min()), float(x.max())))
        low = min(end[0] for end in ends) if low is None else low
        high = max(end[1] for end in ends) if high is None else high
    levels, grid = options.more.get("levels", _LEVELS), options.more.get("grid")
    if grid is None:
        # Whether the originals lie on the grid is known only for pictures that say so.
        grid = "same" if options.norm == "linf" and float(options.budget or 0) <= 0.5 else "free"
    return Budget.grey_levels(
        options.budget,  # type: ignore[arg-type]
        norm=options.norm,  # type: ignore[arg-type]
        low=low,
        high=high,
        levels=levels,
        grid=grid,  # type: ignore[arg-type]
    )


def run_attacks(
    task: AuditTask,
    out: str | Path,
    options: AttackOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> AttackReport:
    """Write `report.html`, `attack.csv`, `attack.json` and the edited inputs, `edits.safetensors`.

    Raises:
        WhenceError: whatever is wrong with the task.
    """
    options = options or AttackOptions()
    settled(task, options)
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress)
    report = find_attack(task, influence, options, on_stage)
    on_stage("writing the page")
    out = Path(out)
    write_attack(report, out)
    write_panels(out / "report.html", [report.panel], TITLE, LEAD)
    return report


def write_attack(report: AttackReport, out: Path) -> None:
    """Write table, summary and edited inputs.

    Raises:
        StoreError: a file cannot be written.
    """
    found = report.found
    write_table(
        out / "attack.csv",
        ("query", "before", "after", "flipped", "edits", "train", "largest_change", "converged"),
        _audit_rows(found, report.numbers)
        if isinstance(found, PoisoningAudit)
        else _attack_rows(found, report.numbers),
    )
    summary = {"name": report.task.name, "queries": report.numbers, "words": found.words, **found.summary()}
    write_atomically(out / "attack.json", dump_json(summary, indent=2) + "\n")
    tensors = {}
    if isinstance(found, PoisoningAudit):
        for entry in found.queries:
            if entry.edited is not None:
                name = f"query{report.numbers[entry.query]}"
                tensors[f"{name}.train"] = torch.tensor(entry.index)
                tensors[f"{name}.edited"] = entry.edited
    else:
        tensors = {"train": found.index, "edited": found.edited}
    write_tensors(out / "edits.safetensors", tensors, {"made by": "whence attack"})


def _audit_rows(audit: PoisoningAudit, numbers: list[int]) -> Iterator[tuple[Any, ...]]:
    for entry in audit.queries:
        yield (
            numbers[entry.query],
            entry.before,
            entry.after,
            int(entry.flipped),
            entry.edits,
            " ".join(map(str, entry.index)),
            entry.size.linf,
            int(entry.converged),
        )


def _attack_rows(result: AttackResult, numbers: list[int]) -> Iterator[tuple[Any, ...]]:
    edited = " ".join(map(str, result.index.tolist()))
    for row, _ in enumerate(result.seeds):
        for position, query in enumerate(result.queries.tolist()):
            before, after = (int(runs[row, position]) for runs in (result.before, result.after))
            yield (
                numbers[query],
                before,
                after,
                int(before != after),
                len(result.index),
                edited,
                result.size.linf,
                1,
            )
