"""Leave examples out, retrain, and compare with the prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from whence.errors import ConvergenceError, InputError, NonFiniteError
from whence.evaluation.verification import Verification
from whence.influence import FittedInfluence, Scores, compute_scores, resolve_measurement
from whence.influence.measurements import Measurement
from whence.progress import progress_bar
from whence.store import RunDirectory, fingerprint, model_fingerprint
from whence.task import Examples, TrainingData, check_model

Recipe = Callable[[Any, int], nn.Module]  # (training data, seed) -> trained model

_NAMED = ("loss", "margin", "logit")


def verify_removals(
    fitted: FittedInfluence,
    train: Any,
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

    The examples are those with the largest predicted effect, taken from the queries in turn. Predictions
    follow the recipe's objective: with `reduction="mean"` the loss is averaged over the examples that are
    left, so `Δm ≈ (score_i − mean score)/(n − 1)`; with `"sum"` the weights stay `1/n` and
    `Δm ≈ score_i / n`.

    Args:
        fitted: the fitted influence function.
        train: the training data as the user gave it; the recipe gets the same kind of object with one example
            fewer.
        queries: where the change is measured.
        recipe: `recipe(train, seed) -> model`, trains from data; it may raise `ConvergenceError`, and that
            run is then left out and reported.
        remove: how many examples are removed, each alone.
        seeds: every retraining is done once per seed, and compared with the full-data run of the same seed.
        reduction: what the recipe minimises.
        scores: of these queries, if they were computed already.
        measurement: what is compared. By default that of `scores`, where it is `"loss"`, `"margin"` or
            `"logit"`, or else the loss. Scores know a function by its name alone: with a function or a
            `Measurement` given here, `scores` only says what to refine, and they are computed anew.
        run_dir: keeps finished retrainings, so that a killed run resumes. It is refused for another model,
            data, loss, measurement or recipe. Of recipe and measurement it sees code, closures, defaults and
            the user's own functions and values they name; it does not see changes in installed packages, in
            files that are read, or in the environment (`whence.store.fingerprint`).

    Raises:
        InputError: a recipe that is no function or returns something other than a model of the same
            architecture, a single training example, or bad arguments.
        StoreError: `run_dir` belongs to another run.
    """
    if remove < 1:
        raise InputError(f"remove={remove}: expected at least 1 example")
    if not seeds:
        raise InputError("seeds is empty: expected at least one")
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction={reduction!r}: expected 'mean' or 'sum'")
    if not callable(recipe):
        raise InputError(
            f"recipe={recipe!r}: expected a function recipe(train, seed) that returns the trained model"
        )
    objective = fitted.objective
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
    if scores is None:
        scores = compute_scores(fitted, queries, measured)
    elif not (measurement is None or isinstance(measurement, str)):
        scores = compute_scores(fitted, queries, measured, refine=scores.settings.get("refine", 0))
    predicted = _predicted(scores, reduction)
    chosen = _largest_in_turn(predicted, min(remove, objective.n))
    records = _Records(run_dir, fitted, examples, recipe, measured)
    failed: dict[int, str] = {}
    changes: dict[int, list[np.ndarray]] = {i: [] for i in chosen}
    given = _measure(fitted, objective.model, examples, measured)
    gaps = []
    total = len(seeds) * (1 + len(chosen))

    def retrained(removed: int | None, seed: int) -> np.ndarray | str:
        return _retrained(fitted, recipe, train, removed, seed, examples, measured)

    with progress_bar("retraining", total, enabled=fitted.options.progress) as bar:
        for seed in seeds:
            baseline = records.measured(None, seed, retrained)
            bar.advance()
            if isinstance(baseline, str):
                raise ConvergenceError(
                    f"the recipe did not converge on the full training set (seed {seed}): {baseline}"
                )
            gaps.append(baseline - given)
            for i in chosen:
                result = records.measured(i, seed, retrained)
                bar.advance()
                if isinstance(result, str):
                    failed[i] = result
                else:
                    changes[i].append(result - baseline)
    kept = [i for i in chosen if i not in failed]
    actual = np.stack([np.mean(changes[i], axis=0) for i in kept]) if kept else np.zeros((0, len(examples)))
    spread = (
        [np.std(changes[i], axis=0, ddof=1) / len(seeds) ** 0.5 for i in kept]
        if len(seeds) > 1 and kept
        else None
    )
    return Verification(
        removed=np.array(kept, dtype=np.int64),
        predicted=predicted[:, kept].T.copy(),
        actual=actual,
        noise=np.stack(spread) if spread is not None else np.zeros_like(actual),
        seeds=tuple(seeds),
        reduction=reduction,
        baseline_gap=float(np.sqrt(np.mean(np.square(gaps)))),
        failed=failed,
        measurement=measured.name,
    )


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


def _retrained(
    fitted: FittedInfluence,
    recipe: Recipe,
    train: Any,
    removed: int | None,
    seed: int,
    examples: Examples,
    measured: Measurement,
) -> np.ndarray | str:
    """The measurement after retraining, or why the retraining failed."""
    n = fitted.objective.n
    try:
        model = recipe(train if removed is None else TrainingData(train, n).edited(drop=[removed]), seed)
    except ConvergenceError as error:
        return str(error)
    _check_architecture(fitted.objective.model, model)
    return _measure(fitted, model, examples, measured)


def _check_architecture(given: nn.Module, made: Any) -> None:
    if not isinstance(made, nn.Module):
        raise InputError(f"recipe returned a {type(made).__name__}; expected the trained torch.nn.Module")
    expected = {name: tuple(value.shape) for name, value in given.named_parameters()}
    found = {name: tuple(value.shape) for name, value in made.named_parameters()}
    if expected != found:
        differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise InputError(
            f"recipe returned another architecture than the model's: parameter {differing[0]!r} is "
            f"{found.get(differing[0], 'absent')}, expected "
            f"{expected.get(differing[0], 'absent')} ({len(differing)} parameters differ). Build the same "
            "model in the recipe."
        )
    check_model(made)


def _measure(
    fitted: FittedInfluence, model: nn.Module, examples: Examples, measured: Measurement
) -> np.ndarray:
    """`m` of every query under another model's parameters and buffers, in the wider of its dtype and the
    computation's.

    A recipe that trains in float64 is measured in float64: the effect of one example may be smaller than
    float32 resolves.
    """
    objective = fitted.objective
    named = [*model.named_parameters(), *model.named_buffers()]
    dtype = objective.dtype
    for _, tensor in named:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach().to(objective.device, dtype if leaf.is_floating_point() else leaf.dtype)

    values = {name: cast(tensor) for name, tensor in named}
    parts = []
    with torch.no_grad():
        for _, batch in examples.batches(max(fitted.engine.batch_size, 256)):
            wide = tree_map(cast, batch)
            parts.append(
                measured.function(objective.outputs(values, wide, everything=True), objective.targets(wide))
            )
    result = torch.cat(parts).double().cpu().numpy()
    if not np.isfinite(result).all():
        raise NonFiniteError("the recipe's model gives NaN or infinity on the queries: its training diverged")
    return result


class _Records:
    """Finished retrainings, in a run directory if there is one."""

    def __init__(
        self,
        run_dir: Path | None,
        fitted: FittedInfluence,
        examples: Examples,
        recipe: Recipe,
        measured: Measurement,
    ):
        self._directory: RunDirectory | None = None
        if run_dir is None:
            return
        objective = fitted.objective
        identity = {
            "model": model_fingerprint(objective.model),
            "parameters": objective.parameters.fingerprint(),
            "train": objective.examples.fingerprint(),
            "queries": examples.fingerprint(),
            "recipe": fingerprint(recipe),
            "loss": objective.loss.settings(),
            "measurement": {"name": measured.name, "function": fingerprint(measured.function)},
            "dtype": str(objective.dtype),
        }
        self._directory = RunDirectory(run_dir, identity)

    def measured(
        self, removed: int | None, seed: int, compute: Callable[[int | None, int], np.ndarray | str]
    ) -> np.ndarray | str:
        name = f"retrained/seed{seed}-{'all' if removed is None else f'without{removed}'}"
        known = None if self._directory is None else self._directory.read(name)
        if known is not None:
            return known["failed"] if "failed" in known else np.array(known["measured"])
        result = compute(removed, seed)
        if self._directory is not None:
            self._directory.write(
                name, {"failed": result} if isinstance(result, str) else {"measured": result.tolist()}
            )
        return result
