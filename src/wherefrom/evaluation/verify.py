"""Leave examples out, retrain, and compare with the prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from wherefrom.arguments import choice, seeds_of, whole
from wherefrom.errors import InputError
from wherefrom.evaluation.noise import another_full_run, noise_of_mean, training_spread
from wherefrom.evaluation.retraining import Recipe, Retraining
from wherefrom.evaluation.verification import Verification
from wherefrom.influence import (
    Attributor,
    Fit,
    Scores,
    has_closed_form,
    leave_one_out,
    resolve_measurement,
)
from wherefrom.influence.identity import identity_of, require_same, same_measurement
from wherefrom.influence.measurements import Measurement
from wherefrom.progress import progress_bar

_NAMED = ("loss", "margin", "logit")


def verify_removals(
    attributor: Attributor,
    queries: Any,
    recipe: Recipe,
    *,
    remove: int = 20,
    seeds: Sequence[int] = (0,),
    reduction: Literal["mean", "sum"] = "mean",
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] | None = None,
    scores: Scores | None = None,
    run_dir: Path | None = None,
) -> Verification:
    """Leave-one-out retraining of the most influential examples: predicted against actual change.

    Besides, the recipe runs once more on all the data, with a seed of its own and the examples in the reverse
    order: what that changes is the noise of training, below which no removal says anything
    (`Verification.judgement`).

    The examples are those with the largest predicted effect, taken from the queries in turn. Predictions
    follow the recipe's objective: with `reduction="mean"` the loss is averaged over the examples that are
    left, so `Δm ≈ (score_i − mean score)/(n − 1)`; with `"sum"` the weights stay `1/n` and
    `Δm ≈ score_i / n`.

    Args:
        attributor: whose scores are verified.
        queries: where the change is measured.
        recipe: `recipe(train, seed) -> model`, trains from data of the kind that was given, with one example
            fewer; it may raise `ConvergenceError`, and that run is then left out and reported.
        remove: how many examples are removed, each alone.
        seeds: every retraining is done once per seed, and compared with the full-data run of the same seed;
            `len(seeds) · (1 + remove) + 1` trainings in all.
        reduction: what the recipe minimises.
        scores: of these queries, if they were computed already.
        measurement: what is compared. By default that of `scores`, where it is `"loss"`, `"margin"` or
            `"logit"`, or else the loss. Scores know a function by its name alone: with a function or a
            `Measurement` given here, `scores` only says what to refine, and they are computed anew.
        run_dir: keeps finished retrainings, so that a killed run resumes; the attributor's own by default. It
            is refused for another model, data, loss, measurement or recipe. Of recipe and measurement it sees
            code, closures, defaults and the user's own functions and values they name; it does not see
            changes in installed packages, in files that are read, or in the environment
            (`wherefrom.store.fingerprint`).

    Raises:
        InputError: scores of another fit, other queries or another measurement; seeds that are no integers or
            named twice; a recipe that is no function or returns something other than a model of the same
            architecture, a single training example, or bad arguments.
        StoreError: `run_dir` belongs to another run.
    """
    remove = whole("remove", remove, 1)
    seeds = seeds_of(seeds)
    choice("reduction", reduction, ("mean", "sum"))
    objective = attributor.objective
    if objective.n < 2:
        raise InputError(
            "the training set has 1 example: without it nothing is left to train on. Verify a model of at "
            "least 2 examples."
        )
    measured = resolve_measurement(_chosen_measurement(measurement, scores), objective.loss)
    if scores is not None and scores.measurement != measured.name:
        raise InputError(
            f"scores are of the measurement {scores.measurement!r}, but measurement={measured.name!r} is to "
            "be verified. Pass the same measurement here as to scores()."
        )
    examples = objective.read(queries, role="queries")
    if scores is not None and len(examples) != len(scores):
        raise InputError(
            f"scores has {len(scores)} queries but {len(examples)} queries were given; they must be the same"
        )
    identity = identity_of(attributor.identity, examples, measured)
    if scores is not None:
        # Where a function is given, scores of another one under its name are computed anew below.
        named = measurement is None or isinstance(measurement, str)
        compared = ("fit", "queries", "measurement") if named else ("fit", "queries")
        require_same("scores", scores.identity, {key: identity[key] for key in compared})
    retraining = Retraining(objective, recipe, examples, measured, run_dir or attributor.run_dir)
    if scores is None:
        scores = attributor.scores(queries, measured)
    elif not same_measurement(scores.identity, measured) and not (
        measurement is None or isinstance(measurement, str)
    ):
        refine = scores.settings.get("refine", 0)
        scores = attributor.scores(queries, measured, **({"refine": refine} if refine else {}))
    predicted = _predicted(scores, reduction)
    chosen = _largest_in_turn(predicted, min(remove, objective.n))
    data = attributor.data
    failed: dict[int, str] = {}
    changes: dict[int, list[np.ndarray]] = {i: [] for i in chosen}
    given = retraining.given()
    baselines = []
    total = len(seeds) * (1 + len(chosen)) + 1

    def retrained(removed: int, seed: int) -> np.ndarray | str:
        return retraining.measured(f"without{removed}", lambda: data.edited(drop=[removed]), seed)

    with progress_bar("retraining", total, enabled=attributor.progress) as bar:
        for seed in seeds:
            baseline = retraining.baseline(data.given, seed)
            bar.advance()
            baselines.append(baseline)
            for i in chosen:
                result = retrained(i, seed)
                bar.advance()
                if isinstance(result, str):
                    failed[i] = result
                else:
                    changes[i].append(result - baseline)
        another = another_full_run(retraining, data, seeds)
        bar.advance()
    kept = [i for i in chosen if i not in failed]
    shape = (len(seeds), len(kept), len(examples))
    by_seed = np.stack([changes[i] for i in kept], axis=1) if kept else np.zeros(shape)
    spread = training_spread(baselines, another)
    return Verification(
        removed=np.array(kept, dtype=np.int64),
        predicted=predicted[:, kept].T.copy(),
        actual=by_seed.mean(axis=0),
        noise=noise_of_mean(by_seed, spread),
        seeds=tuple(seeds),
        reduction=reduction,
        baseline_gap=float(np.sqrt(np.mean(np.square(np.stack(baselines) - given)))),
        failed=failed,
        measurement=measured.name,
        seed_spread=spread,
        by_seed=by_seed,
        corrected=_corrected(attributor, queries, measured, kept, reduction),
        identity=identity,
        sized=attributor.estimand != "similarity",
    )


def _corrected(
    attributor: Attributor,
    queries: Any,
    measured: Measurement,
    kept: list[int],
    reduction: Literal["mean", "sum"],
) -> np.ndarray | None:
    """The predictions with leverage, where a solve costs next to nothing."""
    if not kept or not isinstance(attributor, Fit) or not has_closed_form(attributor):
        return None
    made = leave_one_out(attributor, queries, measured, indices=kept, reduction=reduction)
    return made.values.T.double().numpy()


def _chosen_measurement(
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] | None, scores: Scores | None
) -> str | Measurement | Callable[[Tensor, Any], Tensor]:
    if measurement is not None:
        return measurement
    if scores is None:
        return "loss"
    if scores.measurement not in _NAMED:
        raise InputError(
            f"scores are of the measurement {scores.measurement!r}, which is not one of "
            f"{', '.join(map(repr, _NAMED))}. Pass the same measurement here as to scores()."
        )
    return scores.measurement


def _predicted(scores: Scores, reduction: str) -> np.ndarray:
    values = scores.values.double().numpy()
    n = scores.n_train
    return (values - values.mean(axis=1, keepdims=True)) / (n - 1) if reduction == "mean" else values / n


def _largest_in_turn(predicted: np.ndarray, count: int) -> list[int]:
    """Training examples of largest predicted effect, one from each query in turn, without repeats."""
    order = np.argsort(-np.abs(predicted), axis=1, kind="stable")
    chosen: dict[int, None] = {}
    for rank in range(predicted.shape[1]):
        for query in range(predicted.shape[0]):
            chosen.setdefault(int(order[query, rank]))
            if len(chosen) == count:
                return list(chosen)
    return list(chosen)
