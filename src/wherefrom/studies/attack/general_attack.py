"""The iterated attack on any model: influence by the fitted solver, retraining by the user's recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.evaluation import Recipe
from wherefrom.influence import Fit
from wherefrom.influence.continuous_input import ContinuousInput
from wherefrom.influence.input_influence import solve_measurement
from wherefrom.influence.mixed_derivative import input_gradients
from wherefrom.studies.attack.edited_data import edited_training_set
from wherefrom.studies.attack.outcome import AttackStep, Method
from wherefrom.studies.attack.predictions import classes_of, named_values, outputs_on
from wherefrom.studies.attack.retrain import train_anew
from wherefrom.task import Examples, Objective


def attack_model(
    fitted: Fit,
    queries: Any,
    where: ContinuousInput,
    method: Method,
    recipe: Recipe,
    *,
    refit_every: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k *x"], list[AttackStep]]:
    """Edit the training examples of largest `‖I_pert‖` step by step.

    Args:
        fitted: influence at the trained model.
        queries: the targeted ones, whose mean measurement is raised.
        where: the input that is edited.
        method: how.
        recipe: trains after every `refit_every` steps; with `refit_every=0` never, and the whole attack goes
            by the influence at the given model.
        seed: of these retrainings.
        advance: called after each step.

    Returns:
        the training indices, their edited inputs, and the steps. The last step's `value` and
        `flipped` are of the latest retrained model, not of the last edit.
    """
    objective, budget = fitted.objective, method.budget
    examples = objective.read(queries, role="queries")
    solved = solve_measurement(fitted, queries, method.measurement, mean=True)[0]
    index = _chosen(objective, where, solved, method)
    batch = objective.examples.batch(index)
    original = where.read(batch).detach()
    budget.check(original, index.tolist())
    latent, current = original.clone(), fitted
    value, before = _measured(objective, examples, method, None)
    history = [AttackStep(0, value, 0)]
    for step in range(1, method.steps + 1):
        x = budget.emit(latent, original)
        gradient = input_gradients(current.objective, where.write(batch, x), where, solved)[0]
        moved = budget.project(budget.ascend(latent, method.sign * gradient, method.step_size), original)
        stuck, latent = torch.equal(moved, latent), moved
        last = step == method.steps or stuck
        if refit_every and (step % refit_every == 0 or last):
            edited, _ = edited_training_set(objective, where, index, budget.emit(latent, original))
            model = train_anew(objective, recipe, edited, seed)
            value, after = _measured(objective, examples, method, named_values(objective, model))
            history.append(AttackStep(step, value, int((after != before).sum())))
            last = last or bool((after != before).all())
            if not last:
                # What the run directory keeps belongs to the model given.
                current = Fit(objective.like(model, edited), replace(fitted.options, run_dir=None)).fit()
                solved = solve_measurement(current, queries, method.measurement, mean=True)[0]
        advance()
        if last:
            break
    return index, budget.emit(latent, original), history


def _chosen(
    objective: Objective, where: ContinuousInput, solved: Tensor, method: Method
) -> Int[Tensor, " k"]:
    if method.fixed is not None:
        return method.fixed
    norms = [
        input_gradients(objective, objective.examples.batch(part), where, solved)[0]
        .flatten(1)
        .norm(p=method.budget.dual, dim=1)
        for part in method.candidates.split(objective.pass_size)
    ]
    return method.candidates[torch.cat(norms).topk(method.edits).indices]


def _measured(
    objective: Objective, examples: Examples, method: Method, values: dict[str, Tensor] | None
) -> tuple[float, Tensor]:
    """Mean of the measurement over the targeted queries, and their predicted classes."""
    outputs = outputs_on(objective, examples, values)
    targets = objective.targets(examples.batch(range(len(examples))))
    with torch.no_grad():
        value = float(method.measurement.function(outputs, targets).mean())
    return value, classes_of(objective.loss, outputs)
