"""Carry an intervention out: train on the edited data, and compare with the prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wherefrom.arguments import seeds_of
from wherefrom.errors import InputError
from wherefrom.evaluation import Recipe, Retraining
from wherefrom.evaluation.noise import another_full_run, noise_of_mean, training_spread
from wherefrom.influence import Fit, Measurement, resolve_measurement
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.edits import Edits
from wherefrom.interventions.outcome import Outcome
from wherefrom.interventions.predict import Order, predict_change
from wherefrom.progress import progress_bar
from wherefrom.store import fingerprint
from wherefrom.task import Data


def edited_data(train: Data, edits: Edits, *, weighted: bool) -> tuple[Any, Tensor | None]:
    """The edited training set, and how often each of its examples counts, where that is not once.

    Args:
        train: the training set.
        edits: the intervention.
        weighted: whether weights can be handed on; otherwise whole numbers become repetitions.

    Raises:
        InputError: a weight that is not whole, for a recipe that takes no weights.
    """
    odd = {i: weight for i, weight in edits.weights.items() if weight not in (0.0, 1.0)}
    given: dict[str, Any] = {"drop": edits.removed, "replace": edits.contents, "add": edits.added}
    if not odd:
        return train.edited(**given), None
    if weighted:
        kept = sorted(set(range(train.n)) - set(edits.removed))
        each = [edits.weights.get(i, 1.0) for i in kept] + [1.0] * len(edits.added)
        return train.edited(**given), torch.tensor(each, dtype=torch.float64)
    broken = next((i for i, weight in odd.items() if weight != round(weight)), None)
    if broken is not None:
        raise InputError(
            f"training example {broken} is to count {odd[broken]:g} times, but the recipe has no argument "
            "weights. Write recipe(train, seed, weights), with one weight for each example of train, or use "
            "whole numbers, which become repetitions."
        )
    return train.edited(**given, repeat={i: int(weight) for i, weight in odd.items()}), None


def retraining_of(fitted: Fit, recipe: Recipe, queries: Any, measured: Measurement) -> Retraining:
    """Retrainings measured on these queries, kept beside those of others."""
    examples, folder = fitted.objective.read(queries, role="queries"), fitted.run_dir
    if folder is not None:
        measures = fingerprint([examples.fingerprint(), measured.name, fingerprint(measured.function)])
        folder /= f"measured{measures[:12]}"
    return Retraining(fitted.objective, recipe, examples, measured, folder)


def carry_out(
    fitted: Fit,
    edits: Edits,
    queries: Any,
    recipe: Recipe,
    *,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    order: Order = "auto",
    reduction: Reduction = "mean",
    seeds: Sequence[int] = (0,),
    retraining: Retraining | None = None,
) -> Outcome:
    """Predict, retrain on the given and on the edited data with each seed, and compare.

    Besides, the recipe runs once more on the given data, with another seed and the examples in the reverse
    order: a change smaller than what that changes cannot be told from the noise of training.

    Args:
        fitted: the fitted influence function.
        edits: the intervention.
        queries, measurement, order, reduction: of the prediction, see `predict_change`. With
            `reduction="sum"` the recipe must keep the weights `1/n` (`FullBatch(divide_by=n)`).
        recipe: `recipe(train, seed) -> model`, or `recipe(train, seed, weights)` where examples are to count
            otherwise than once.
        seeds: every training is done once with each.
        retraining: of this recipe, these queries and this measurement, where several interventions share one.

    Raises:
        ConvergenceError: the recipe does not converge on the given data.
        InputError: as for `predict_change`, no seeds, a recipe that cannot carry the intervention out.
    """
    seeds = seeds_of(seeds)
    data = fitted.data
    measured = resolve_measurement(measurement, fitted.objective.loss)
    retraining = retraining or retraining_of(fitted, recipe, queries, measured)
    changed, weights = edited_data(data, edits, weighted=retraining.takes_weights)
    change = predict_change(fitted, data, edits, queries, measured, order=order, reduction=reduction)
    given = retraining.given()
    name = f"edited{fingerprint(edits)[:24]}"
    differences, baselines, failed = [], [], {}
    with progress_bar("retraining", 2 * len(seeds) + 1, enabled=fitted.options.progress) as bar:
        for seed in seeds:
            baseline = retraining.baseline(data.given, seed)
            bar.advance()
            baselines.append(baseline)
            after = retraining.measured(name, lambda: changed, seed, weights)
            bar.advance()
            if isinstance(after, str):
                failed[seed] = after
            else:
                differences.append(after - baseline)
        another = another_full_run(retraining, data, seeds)
        bar.advance()
    missing = np.full(len(change), np.nan)
    spread = training_spread(baselines, another)
    return Outcome(
        change=change,
        actual=np.mean(differences, axis=0) if differences else missing,
        noise=noise_of_mean(np.stack(differences), spread) if differences else missing,
        seed_spread=spread,
        seeds=tuple(seed for seed in seeds if seed not in failed),
        baseline_gap=float(np.sqrt(np.mean(np.square(np.stack(baselines) - given)))),
        failed=failed,
    )
