"""`wherefrom attack`: could somebody poison this model?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Fit, Trust, as_fit, trust_of
from wherefrom.influence.continuous_input import ContinuousInput, find_input
from wherefrom.influence.kept import kept
from wherefrom.report import Describer, Section
from wherefrom.store import write_tensors
from wherefrom.studies.attack.edited_data import edited_training_set
from wherefrom.studies.attack.head import head_obstacle, require_recipe
from wherefrom.studies.attack.options import make_budget, settled
from wherefrom.studies.attack.poisoning import PoisoningAudit, audit_poisoning
from wherefrom.studies.attack.result import AttackResult
from wherefrom.studies.attack.run import run_attack
from wherefrom.studies.attack.shown import attack_blocks, poisoning_blocks
from wherefrom.studies.cards import query_cards, train_cards
from wherefrom.studies.selection import spread_queries
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet
from wherefrom.studies.task import Task
from wherefrom.task import Data

_COLUMNS = ("query", "before", "after", "flipped", "edits", "train", "largest_change", "converged", "seed")
_RETRAINED = "every flip was counted after retraining"


@dataclass(frozen=True)
class Attack(Study):
    """Audit your own model: how few imperceptibly edited training examples flip its predictions?

    A linear head on frozen features is attacked query by query.

    Any other model: all queries at once, trained by the task's recipe between steps.

    The task file may set the same by attack = {...}, and low and high of the inputs.
    """

    name: ClassVar[str] = "attack"
    question: ClassVar[str] = "Could somebody poison this model?"
    lead: ClassVar[str] = (
        "An audit of one's own model: training examples are edited within a small budget and the model is "
        "trained again, to see which of its predictions would not survive."
    )

    edits: str | None = option(
        None, "Training examples edited: a number, or several to try, as 1,2,10 (the default)."
    )
    budget: float | None = option(
        None,
        "Largest change, in steps of 1/255 of the inputs' range: grey levels of pictures (default: 0.5).",
    )
    norm: str | None = option(None, "linf (the default: in any value) or l2.")
    steps: int | None = option(None, "Steps of each attack, at most (default: 40).")
    queries: int | None = option(None, "Queries attacked, spread over all (default: 100).")
    together: bool = option(False, "Attack all queries at once, not each by itself.")

    @property
    def asked(self) -> dict[str, Any]:
        """The choices that were made, for `settled`."""
        edits = None if self.edits is None else _numbers(self.edits)
        return {**vars(self), "edits": edits, "together": self.together or None}

    def check(self, task: Task) -> None:
        """Refuse options out of range."""
        settled(task, self.asked)

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> AttackReport:
        """Attack a fitted task.

        Raises:
            InputError: as `run_attack` and `audit_poisoning`; a model that is no head without a recipe.
            UnsupportedError: a method without gradients.
        """
        fitted = as_fit(attributor, "attacks on the training set")
        asked = self.asked
        where = require_attackable(task, fitted, asked)
        options = settled(task, asked)
        objective = fitted.objective
        budget, remark = make_budget(objective, where, options)
        queries, numbers = spread_queries(fitted, task.queries, options.queries)
        obstacle = head_obstacle(fitted)
        cards = (train_cards(task, fitted), query_cards(task, fitted, queries, numbers))
        shared: dict[str, Any] = {
            "budget": budget,
            "steps": options.steps,
            "measurement": task.measurement,
            **{name: options.more[name] for name in ("step_size", "candidates") if name in options.more},
        }
        if obstacle is None and not options.together:
            say(f"{task.name}: attacking {len(numbers)} queries, each by itself")
            audit = kept(
                fitted,
                "poisoning",
                lambda: audit_poisoning(fitted, queries, edits=options.edits, **shared),
                of=[options.edits, {**shared, "budget": asdict(budget)}],
                queries=queries,
                measurement=task.measurement,
            )
            trust = trust_of(fitted, retrained=_RETRAINED)
            return AttackReport(task.name, task.class_names, audit, numbers, cards, remark, trust)
        say(f"{task.name}: attacking {len(numbers)} queries at once")
        controls, n = task.validation, len(objective.read(task.queries, role="queries"))
        if controls is None and len(numbers) < n:
            controls = Data(task.queries, n).edited(drop=numbers)
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
            again = (
                f"All queries were attacked at once, and the recipe trained again between steps: {obstacle}."
            )
            remark = f"{again} {remark}".strip()
        trust = trust_of(fitted, retrained=_RETRAINED)
        return AttackReport(task.name, task.class_names, result, numbers, cards, remark, trust)


@dataclass(frozen=True)
class AttackReport(Result):
    """What was found, and how it is shown.

    Attributes:
        name, class_names: of the task.
        found: attacks on each query by itself, or one on all of them.
        numbers: of the attacked queries among the task's.
        cards: from an index to what people see of a training example, and of a query.
        remark: what the reader should know of the choice between the two; may be empty.
    """

    name: str
    class_names: Sequence[str] | None
    found: PoisoningAudit | AttackResult
    numbers: list[int]
    cards: tuple[Describer, Describer]
    remark: str
    trust: Trust

    def section(self) -> Section:
        """Shares, the verdict in words, and what was edited."""
        shared: dict[str, Any] = {
            "class_names": self.class_names,
            "numbers": self.numbers,
            "remark": self.remark,
        }
        if isinstance(self.found, PoisoningAudit):
            blocks = poisoning_blocks(self.found, *self.cards, **shared)
        else:
            blocks = attack_blocks(self.found, *self.cards, **shared)
        return Section(self.name, self.trust, blocks)

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`attack.csv`: one row per attacked query."""
        found = self.found
        rows = (
            _audit_rows(found, self.numbers)
            if isinstance(found, PoisoningAudit)
            else _attack_rows(found, self.numbers)
        )
        return {"attack": (_COLUMNS, rows)}

    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        return {"queries": self.numbers, "words": self.found.words, **self.found.summary()}

    def save(self, folder: Path) -> None:
        """Write the edited inputs, `edits.safetensors`.

        Raises:
            StoreError: the file cannot be written.
        """
        found, tensors = self.found, {}
        if isinstance(found, PoisoningAudit):
            for entry in found.queries:
                if entry.edited is not None:
                    name = f"query{self.numbers[entry.query]}"
                    tensors[f"{name}.train"] = torch.tensor(entry.index)
                    tensors[f"{name}.edited"] = entry.edited
        else:
            tensors = {"train": found.index, "edited": found.edited}
        write_tensors(folder / "edits.safetensors", tensors, {"made by": "wherefrom attack"})


def require_attackable(task: Task, fitted: Fit, asked: Mapping[str, Any]) -> ContinuousInput:
    """What is asked before anything long: are the inputs continuous, can an edit be written into this
    training set, and can the model be trained again?

    Raises:
        InputError: no, and why.
    """
    settled(task, asked)
    objective = fitted.objective
    where = find_input(objective)
    first = torch.tensor([0])
    edited_training_set(objective, where, first, where.read(objective.examples.batch(first)).detach())
    require_recipe(fitted, task.recipe)
    return where


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"edits={text!r}: expected a number, or several with commas, as 1,2,10") from error


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
