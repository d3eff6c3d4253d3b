"""Attack a training set: choose examples, edit them imperceptibly, retrain, count what flips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from wherefrom.arguments import number, seeds_of, whole
from wherefrom.errors import InputError
from wherefrom.evaluation import Recipe, Retraining
from wherefrom.influence import Fit, check_indices, resolve_measurement
from wherefrom.influence.continuous_input import find_input
from wherefrom.influence.measurements import Measurement
from wherefrom.influence.mixed_derivative import check_mixed_derivative
from wherefrom.progress import progress_bar
from wherefrom.studies.attack.budget import Budget, as_budget
from wherefrom.studies.attack.edited_data import edited_training_set
from wherefrom.studies.attack.features import FeatureReader
from wherefrom.studies.attack.general_attack import attack_model
from wherefrom.studies.attack.head import HeadProblem, require_recipe
from wherefrom.studies.attack.head_attack import HeadAttack
from wherefrom.studies.attack.outcome import Method
from wherefrom.studies.attack.predictions import classes_of, correct, outputs_on
from wherefrom.studies.attack.result import AttackResult, control_summary, edit_size
from wherefrom.studies.attack.retrain import predicted_class, retrain_by_recipe, retrain_head
from wherefrom.task import Data, Objective, check_examples

# A step as a share of the radius: a few steps reach the edge, and signs may still change there.
STEP_SHARE = 0.25


def run_attack(
    fitted: Fit,
    queries: Any,
    *,
    budget: Budget | float | int,
    edits: int = 1,
    examples: Sequence[int] | None = None,
    candidates: Sequence[int] | None = None,
    controls: Any = None,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0,),
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    steps: int = 40,
    step_size: float | int | None = None,
    refit_every: int = 1,
    input: int | str | None = None,
) -> AttackResult:
    """The iterated attack of Koh & Liang (2017, §5.2) on one query, or on a set of queries at once.

    `x ← Π(x + α sign I_pert,m(z))` for the training examples of largest `‖I_pert,m‖`, with `m` the mean of
    the measurement over the targeted queries, retraining between steps; then real retraining on the edited
    training set. For a linear head on frozen features with weight decay the retraining between steps is
    Newton's method on the head, exact and fast, whatever `recipe` is; for any other model it is `recipe`.

    Args:
        fitted: the fitted influence function.
        queries: whose predictions are to flip; those mispredicted already are left out of the target.
        budget: what an edit may look like; a number is an l∞ radius in the units of the inputs.
        edits: how many training examples are edited.
        examples: edit exactly these training indices.
        candidates: choose among these training indices; all by default.
        controls: examples that should not be harmed, with their labels.
        recipe: `recipe(train, seed) -> model`, of the final retraining. A head without one is retrained from
            zero to its optimum.
        seeds: of the final retrainings, each compared with a training on the unedited data with that seed.
        measurement: what is raised on the targeted queries (lowered, if higher is better).
        steps: at most; an attack ends when all targeted predictions have flipped, or no step changes it.
        step_size: `α`, in the unit of the budget's radius; a quarter of it by default.
        refit_every: models other than heads: steps between retrainings; 0: none before the final one.
        input: which tensor of a batch is edited, where there are several.

    Raises:
        InputError: no queries, or all mispredicted already; a budget, index, count or step out of range;
            originals outside the valid range; inputs that are not continuous; no recipe for a model that is
            no head.
        UnsupportedError: the loss predicts no class.
        ConvergenceError: a head that has no optimum on the unedited data, or a recipe that does not converge
            between steps.
    """
    objective = fitted.objective
    budget = as_budget(budget)
    where = find_input(objective, input)
    check_mixed_derivative(fitted.engine.probe, where)
    measured = resolve_measurement(measurement, objective.loss)
    method = make_method(
        fitted, budget, measured, edits, steps, step_size, examples=examples, candidates=candidates
    )
    seeds = seeds_of(seeds)
    words = "0 (only the final retraining) or a whole number above"
    refit_every = whole("refit_every", refit_every, 0, expected=words)
    if recipe is not None and not callable(recipe):
        raise InputError(
            f"recipe={recipe!r}: expected a function recipe(train, seed) that returns the trained model"
        )
    obstacle = require_recipe(fitted, recipe)
    asked = objective.read(queries, role="queries")
    check_examples(objective, asked, progress=False)
    predicted = classes_of(objective.loss, outputs_on(objective, asked))
    targeted, wrong = split_correct(predicted, objective.targets(asked.batch(range(len(asked)))))
    given = Data(objective.given(queries, "queries"), len(asked))
    chosen = [given.item(i) for i in targeted.tolist()]
    watched = _items(objective, controls)
    everything = objective.read(given.stack([*chosen, *watched]), role="queries and controls")
    attack: HeadAttack | None = None
    with progress_bar("attack", None, enabled=fitted.options.progress) as bar:
        if obstacle is None:
            problem = HeadProblem(fitted)
            attack = HeadAttack(problem, FeatureReader(problem, where), everything)
            group = torch.arange(len(targeted), device=problem.features.device)[None]
            (outcome,) = attack.run(group, method)
            index, x, history = outcome.index, outcome.edited, outcome.history
        else:
            assert recipe is not None
            index, x, history = attack_model(
                fitted,
                given.stack(chosen),
                where,
                method,
                recipe,
                refit_every=refit_every,
                seed=seeds[0],
                advance=bar.advance,
            )
        edited, stored = edited_training_set(objective, where, index, x)
        if recipe is None:
            assert attack is not None
            done, how = retrain_head(attack, index, stored), "the head, from zero to its optimum"
        else:
            class_ = predicted_class(objective.loss)
            # Apart from the other retrainings, which measure something else.
            folder = None if fitted.run_dir is None else fitted.run_dir / "attack"
            retraining = Retraining(objective, recipe, everything, class_, folder)
            name = f"edited-{_digest(index, stored)}"
            done = retrain_by_recipe(
                retraining, fitted.data.given, edited, seeds, name=name, advance=bar.advance
            )
            how = "by the recipe"
    q = len(targeted)
    labels = objective.targets(everything.batch(range(len(everything))))
    marks = [
        [None if (m := correct(run, labels)) is None else m[q:] for run in runs]
        for runs in (done.before, done.after)
    ]
    original = where.read(objective.examples.batch(index)).detach()
    return AttackResult(
        queries=targeted,
        already_wrong=wrong,
        index=index.cpu(),
        original=original,
        edited=stored,
        train=edited,
        seeds=tuple(done.seeds),
        before=_first(done.before, q),
        after=_first(done.after, q),
        failed=done.failed,
        controls=control_summary([run[q:] for run in done.before], [run[q:] for run in done.after], marks)
        if watched
        else None,
        size=edit_size(original, stored, budget),
        history=history,
        budget=budget,
        measurement=measured.name,
        retraining=how,
        classes=objective.classes,
    )


def _items(objective: Objective, controls: Any) -> list[Any]:
    """The controls, one by one."""
    if controls is None:
        return []
    examples = objective.read(controls, role="controls")
    check_examples(objective, examples, progress=False)
    data = Data(objective.given(controls, "controls"), len(examples))
    return [data.item(i) for i in range(len(examples))]


def _first(runs: list[Tensor], count: int) -> Int[Tensor, "s q"]:
    return (
        torch.stack([run[:count].cpu() for run in runs]) if runs else torch.zeros(0, count, dtype=torch.long)
    )


def _digest(index: Tensor, x: Tensor) -> str:
    """A name for these edits."""
    content = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(repr(index.tolist()).encode() + content).hexdigest()[:16]


def make_method(
    fitted: Fit,
    budget: Budget,
    measured: Measurement,
    edits: int,
    steps: int,
    step_size: float | int | None,
    *,
    examples: Sequence[int] | None = None,
    candidates: Sequence[int] | None = None,
    shortlist: int | None = None,
) -> Method:
    """The choices of an attack, checked.

    Raises:
        InputError: one is out of range.
    """
    n = fitted.objective.n
    device = fitted.objective.device
    if examples is not None and candidates is not None:
        raise InputError(
            "examples= says exactly which training examples are edited, candidates= among which to choose: "
            "expected one of the two"
        )
    fixed = None if examples is None else check_indices(examples, n).to(device)
    allowed = torch.arange(n) if candidates is None else check_indices(candidates, n)
    count = edits if fixed is None else len(fixed)
    words = f"a whole number from 1 to {len(allowed)}, the training examples that may be edited"
    count = whole("edits", count, 1, len(allowed), expected=words)
    steps = whole("steps", steps, 1)
    size = STEP_SHARE * budget.radius if step_size is None else step_size
    number("step_size", size, above=0, expected=f"a finite number above 0, in {budget.unit}")
    if shortlist is not None:
        whole("shortlist", shortlist, 1, expected="a whole number of at least 1, or None for all")
    return Method(count, budget, measured, steps, float(size), allowed.to(device), fixed, shortlist)


def split_correct(predicted: Int[Tensor, " b"], targets: Any) -> tuple[Int[Tensor, " q"], list[int]]:
    """Numbers of the queries that are predicted correctly, and of the others.

    Raises:
        InputError: all are mispredicted.
    """
    right = correct(predicted, targets)
    if right is None:  # soft targets: there is no correct class, and any change counts
        return torch.arange(len(predicted)), []
    if not bool(right.any()):
        raise InputError(
            f"all {len(predicted)} queries are mispredicted already: an attack that raises their loss has "
            "nothing to flip. Pass queries that the model predicts correctly"
        )
    return right.nonzero()[:, 0].cpu(), (~right).nonzero()[:, 0].tolist()
