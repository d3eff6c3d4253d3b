"""How many predictions fall to few edited training examples: an attack on each query by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.influence import Fit, resolve_measurement
from wherefrom.influence.continuous_input import find_input
from wherefrom.influence.measurements import Measurement
from wherefrom.influence.mixed_derivative import check_mixed_derivative
from wherefrom.percentages import percentage
from wherefrom.plain_text import count_of
from wherefrom.progress import progress_bar
from wherefrom.studies.attack.budget import Budget, as_budget
from wherefrom.studies.attack.features import FeatureReader
from wherefrom.studies.attack.head import HeadProblem
from wherefrom.studies.attack.head_attack import HeadAttack
from wherefrom.studies.attack.outcome import AttackOutcome
from wherefrom.studies.attack.result import EditSize, edit_size
from wherefrom.studies.attack.run import make_method, split_correct
from wherefrom.task import as_given, check_examples


@dataclass(frozen=True)
class PoisonedQuery:
    """The attack on one query that flipped it, or the last one that did not.

    Attributes:
        query: its number among those given.
        edits: training examples edited.
        flipped: whether its prediction is another class after retraining.
        converged: whether that retraining reached its optimum; without it `flipped` is false and the query
            is left out of the shares.
        before, after: predicted labels, as the user's data write them.
        index: training examples edited, `(k,)`.
        others_changed: share of the other queries whose prediction changed with it.
        size: how visible the edits are.
        steps: how many were made.
        original, edited: the inputs, `(k, *x)`; `None` unless it flipped and was to be kept.
    """

    query: int
    edits: int
    flipped: bool
    converged: bool
    before: Any
    after: Any
    index: list[int]
    others_changed: float
    size: EditSize
    steps: int
    original: Float[Tensor, " k *x"] | None = None
    edited: Float[Tensor, " k *x"] | None = None


@dataclass(frozen=True)
class PoisoningAudit:
    """What share of predictions `k` edited training examples can flip.

    Attributes:
        edits: the `k` that were tried, ascending.
        attacked: numbers of the queries attacked, those predicted correctly.
        already_wrong: numbers of queries that were mispredicted before.
        queries: one entry for each attacked query: the smallest of `edits` that flips it, or the largest.
        not_converged: numbers of queries whose last retraining did not converge; they are in no share.
        budget: what an edit may look like.
        measurement: what was raised, or for a margin lowered.
        accuracy: of the model's optimum on all queries given.
        n: size of the training set.
        classes: the user's labels in the order of the class numbers, where these are two things.
    """

    edits: tuple[int, ...]
    attacked: list[int]
    already_wrong: list[int]
    queries: list[PoisonedQuery]
    not_converged: list[int]
    budget: Budget
    measurement: str
    accuracy: float
    n: int
    classes: tuple[Any, ...] | None = None

    def flipped(self, edits: int) -> list[int]:
        """Numbers of the queries that at most so many edited examples flip."""
        return [entry.query for entry in self.queries if entry.flipped and entry.edits <= edits]

    def share(self, edits: int) -> float:
        """Of the attacked queries, those that at most so many edited examples flip; NaN if no retraining
        converged.

        Raises:
            InputError: that many edits were not tried.
        """
        if edits not in self.edits:
            raise InputError(f"edits={edits}: expected one of {', '.join(map(str, self.edits))}, as audited")
        counted = len(self.attacked) - len(self.not_converged)
        return len(self.flipped(edits)) / counted if counted else float("nan")

    @property
    def shares(self) -> dict[int, float]:
        """By number of edits."""
        return {k: self.share(k) for k in self.edits}

    @property
    def others_changed(self) -> float:
        """Mean share of other predictions that change along with a flipped one; NaN if none flipped."""
        found = [entry.others_changed for entry in self.queries if entry.flipped]
        return sum(found) / len(found) if found else float("nan")

    @property
    def words(self) -> str:
        """The verdict in a few sentences."""
        counted = len(self.attacked) - len(self.not_converged)
        if not counted:
            return "Undecided: no retraining converged."
        parts = []
        for k in self.edits:
            parts.append(f"{100 * self.share(k):.0f} % with {k}")
        within = self.budget.words
        if self.budget.norm == "l2":
            within += " in l2 norm"
        text = f"Of {counted} correct predictions, training examples edited by at most {within} flip "
        text += ", ".join(parts)
        text += f" (of {self.n:,})."
        flipped = [entry for entry in self.queries if entry.flipped]
        if flipped:
            levels = [entry.size.grey_levels for entry in flipped if entry.size.grey_levels is not None]
            if levels:
                text += f" No edit exceeds {max(levels):.2g} grey levels."
            text += f" Along with a flip, {percentage(self.others_changed)} of the other predictions change."
        if self.not_converged:
            text += f" {count_of(len(self.not_converged), 'retraining')} did not converge: left out."
        return text

    def summary(self) -> dict[str, Any]:
        """Headline numbers as JSON values."""
        return {
            "flips": {str(k): self.share(k) for k in self.edits},
            "attacked": len(self.attacked),
            "already_wrong": len(self.already_wrong),
            "not_converged": self.not_converged,
            "others_changed": self.others_changed,
            "accuracy": self.accuracy,
            "measurement": self.measurement,
            "budget": self.budget.settings(),
            "n": self.n,
        }

    def __repr__(self) -> str:
        shares = ", ".join(f"{k}: {100 * share:.1f} %" for k, share in self.shares.items())
        return f"PoisoningAudit({shares} of {len(self.attacked)} queries)"


def audit_poisoning(
    fitted: Fit,
    queries: Any,
    *,
    budget: Budget | float | int,
    edits: Sequence[int] = (1, 2, 10),
    candidates: Sequence[int] | None = None,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    steps: int = 40,
    step_size: float | int | None = None,
    shortlist: int | None = 32,
    input: int | str | None = None,
    keep: int = 12,
) -> PoisoningAudit:
    """Attack every correctly predicted query by itself, first with few edits, then with more.

    For a linear head on frozen features: features are computed once, those of edited examples anew at each
    step; queries are attacked in blocks, whose heads are refitted together by Newton's method with the
    factorisation of the fit as preconditioner. Every flip is a prediction of the head at its optimum on the
    edited training set.

    Args:
        fitted: the fitted influence function, of a linear head.
        queries: with labels; those mispredicted already are not attacked.
        budget: what an edit may look like; a number is an l∞ radius in the units of the inputs.
        edits: numbers of edited training examples; a query that fewer flip is not attacked with more.
        candidates: training indices that may be edited; all by default.
        measurement: what is raised on the query (lowered, if higher is better).
        steps, step_size: as for `run_attack`.
        shortlist: candidates of each query that are looked at through the frozen layers, the best by the
            gradient in the features; `None`: all, at one backward pass for each query and candidate.
        input: which tensor of a batch is edited, where there are several.
        keep: flipped queries whose edited inputs are kept, those of few edits first.

    Raises:
        InputError: no queries or none predicted correctly, or an argument out of range.
        UnsupportedError: not a linear head on frozen features (`run_attack` takes any model), or a loss that
            predicts no class.
        ConvergenceError: the head has no optimum on the unedited data.
    """
    objective = fitted.objective
    budget = as_budget(budget)
    if isinstance(edits, str) or not isinstance(edits, Iterable):
        raise InputError(f"edits={edits!r}: expected whole numbers in a list, such as [1, 2, 10]")
    counts = sorted({whole("edits", k, 1) for k in edits})
    if not counts:
        raise InputError("edits is empty: expected at least one number of edited training examples")
    keep = whole("keep", keep, 0)
    where = find_input(objective, input)
    check_mixed_derivative(fitted.engine.probe, where)
    measured = resolve_measurement(measurement, objective.loss)
    methods = [
        make_method(fitted, budget, measured, k, steps, step_size, candidates=candidates, shortlist=shortlist)
        for k in counts
    ]
    examples = objective.read(queries, role="queries")
    check_examples(objective, examples, progress=False)
    problem = HeadProblem(fitted)
    attack = HeadAttack(problem, FeatureReader(problem, where), examples)
    predicted = attack.predict(attack.baseline[None])[0]
    targeted, wrong = split_correct(predicted, attack.targets)
    entries: dict[int, PoisonedQuery] = {}
    left = targeted
    with progress_bar(
        "attacking queries", len(targeted) * len(counts), enabled=fitted.options.progress
    ) as bar:
        for method in methods:
            for block in left.split(attack.attacks_at_once(method.edits)):
                outcomes = attack.run(block[:, None].to(problem.features.device), method)
                for query, outcome in zip(block.tolist(), outcomes):
                    kept = sum(entry.edited is not None for entry in entries.values())
                    pictured = kept < keep and bool(outcome.flipped.all())
                    entries[query] = _entry(
                        attack,
                        query,
                        outcome,
                        predicted,
                        budget,
                        pictured,
                        objective.classes,
                    )
                bar.advance(len(block))
            left = torch.tensor([q for q in left.tolist() if not entries[q].flipped], dtype=torch.long)
            if not len(left):
                break
    right = 1.0 - len(wrong) / len(examples)
    return PoisoningAudit(
        edits=tuple(counts),
        attacked=targeted.tolist(),
        already_wrong=wrong,
        queries=[entries[q] for q in targeted.tolist()],
        not_converged=[q for q in targeted.tolist() if not entries[q].converged],
        budget=budget,
        measurement=measured.name,
        accuracy=right,
        n=objective.n,
        classes=objective.classes,
    )


def _entry(
    attack: HeadAttack,
    query: int,
    outcome: AttackOutcome,
    predicted: Int[Tensor, " m"],
    budget: Budget,
    pictured: bool,
    classes: tuple[Any, ...] | None,
) -> PoisonedQuery:
    changed = attack.predict(outcome.head[None])[0] != predicted
    changed[query] = False
    return PoisonedQuery(
        query=query,
        edits=len(outcome.index),
        flipped=bool(outcome.flipped[0]),
        converged=outcome.converged,
        before=as_given(int(outcome.before[0]), classes),
        after=as_given(int(outcome.after[0]), classes),
        index=outcome.index.tolist(),
        others_changed=float(changed.sum()) / max(len(changed) - 1, 1),
        size=edit_size(outcome.original, outcome.edited, budget),
        steps=len(outcome.history) - 1,
        original=outcome.original.cpu() if pictured else None,
        edited=outcome.edited.cpu() if pictured else None,
    )
