"""From a task to an attack on its training set: which queries, within which budget; files and a page. No
mathematics and no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wherefrom.api import Influence
from wherefrom.cli.attack_options import AttackOptions, make_budget, settled
from wherefrom.errors import InputError
from wherefrom.influence import Trust, trust_of
from wherefrom.influence.continuous_input import ContinuousInput, find_input
from wherefrom.report import Panel, write_panels
from wherefrom.report.files import write_table
from wherefrom.report.poisoning_panel import attack_panel, poisoning_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.store.tensors import write_tensors
from wherefrom.studies.attack import AttackResult, PoisoningAudit, audit_poisoning, run_attack
from wherefrom.studies.attack.edited_data import edited_training_set
from wherefrom.studies.attack.head import head_obstacle
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.task import Task
from wherefrom.task import Data, check_examples

TITLE = "Could somebody poison this model?"
LEAD = (
    "An audit of one's own model: training examples are edited within a small budget and the model is "
    "trained again, to see which of its predictions would not survive."
)
_BATCH = 256

_RETRAINED = "every flip was counted after retraining"


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

    task: Task
    found: PoisoningAudit | AttackResult
    numbers: list[int]
    panel: Panel
    remark: str
    trust: Trust | None = None


def find_attack(
    task: Task,
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
    fitted, objective = influence, influence.objective
    budget, remark = make_budget(objective, where, options)
    examples = objective.read(task.queries, role="queries")
    check_examples(objective, examples, batch_size=_BATCH, progress=False)
    assert options.queries is not None and options.edits is not None and options.steps is not None
    numbers = examples.spread(min(options.queries, len(examples)))
    data = Data(task.queries, len(examples))
    queries = data.stack([data.item(i) for i in numbers])
    obstacle = head_obstacle(fitted)
    cards = (train_cards(task, influence), query_cards(task, influence, queries, numbers))
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
        return AttackReport(task, audit, numbers, panel, remark, trust_of(fitted, retrained=_RETRAINED))
    on_stage(f"{task.name}: attacking {len(numbers)} queries at once")
    left = [i for i in range(len(examples)) if i not in set(numbers)]
    controls = task.validation
    if controls is None and left:
        controls = data.stack([data.item(i) for i in left])
    if obstacle is not None:
        shared["refit_every"] = options.more.get("refit_every", max(1, options.steps // 4))
    result = run_attack(
        fitted,
        queries,
        edits=max(options.edits),
        controls=controls,
        recipe=task.recipe,
        seeds=task.seeds,
        **shared,
    )
    if obstacle is not None:
        again = f"All queries were attacked at once, and the recipe trained again between steps: {obstacle}."
        remark = f"{again} {remark}".strip()
    return AttackReport(
        task,
        result,
        numbers,
        attack_panel(result, *cards, class_names=task.class_names),
        remark,
        trust_of(fitted, retrained=_RETRAINED),
    )


def require_attackable(task: Task, influence: Influence, options: AttackOptions) -> ContinuousInput:
    """What is asked before anything long: are the inputs continuous, can an edit be written into this
    training set, and can the model be trained again?

    Raises:
        InputError: no, and why.
    """
    settled(task, options)
    objective = influence.objective
    where = find_input(objective)
    first = torch.tensor([0])
    edited_training_set(objective, where, first, where.read(objective.examples.batch(first)).detach())
    obstacle = head_obstacle(influence)
    if obstacle is not None and task.recipe is None:
        raise InputError(
            f"recipe= is needed to retrain this model for an attack: {obstacle}. Define recipe(train, "
            "seed) -> model, or study the last linear layer alone (parameters=) with its weight_decay"
        )
    return where


def run_attacks(
    task: Task,
    out: str | Path,
    options: AttackOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> AttackReport:
    """Write `report.html`, `attack.csv`, `attack.json` and the edited inputs, `edits.safetensors`.

    Raises:
        WherefromError: whatever is wrong with the task.
    """
    options = options or AttackOptions()
    settled(task, options)
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress)
    report = find_attack(task, influence, options, on_stage)
    on_stage("writing the page")
    out = Path(out)
    write_attack(report, out)
    write_panels(out / "report.html", [report.panel], TITLE, LEAD, report.trust)
    return report


def write_attack(report: AttackReport, out: Path) -> None:
    """Write table, summary and edited inputs.

    Raises:
        StoreError: a file cannot be written.
    """
    found = report.found
    write_table(
        out / "attack.csv",
        ("query", "before", "after", "flipped", "edits", "train", "largest_change", "converged", "seed"),
        _audit_rows(found, report.numbers)
        if isinstance(found, PoisoningAudit)
        else _attack_rows(found, report.numbers),
    )
    summary = {"name": report.task.name, "queries": report.numbers, "words": found.words, **found.summary()}
    summary["trust"] = None if report.trust is None else report.trust.as_dict()
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
    write_tensors(out / "edits.safetensors", tensors, {"made by": "wherefrom attack"})


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
            "",
        )


def _attack_rows(result: AttackResult, numbers: list[int]) -> Iterator[tuple[Any, ...]]:
    edited = " ".join(map(str, result.index.tolist()))
    for row, seed in enumerate(result.seeds):
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
                seed,
            )
