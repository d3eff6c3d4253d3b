"""Retrain without each set that is predicted to flip a prediction, and say whether it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.evaluation import Recipe
from wherefrom.evaluation.noise import another_full_run
from wherefrom.influence import Fit, Measurement
from wherefrom.interventions.carry_out import retraining_of
from wherefrom.interventions.decision import as_scores, resolve_decision
from wherefrom.interventions.flip_sets import Confirmation, FlipSet
from wherefrom.progress import progress_bar
from wherefrom.store import fingerprint

# Each set that fails is enlarged by half.
_GROWTH = 1.5
_CLEAR = 2.0


def confirm_flips(
    sets: Sequence[FlipSet],
    fitted: Fit,
    queries: Any,
    recipe: Recipe,
    *,
    retrainings: int = 3,
    seed: int = 0,
) -> list[FlipSet]:
    """The same answers, each with what retraining says of it.

    The recipe runs twice on all the data (with another seed and order the second time: what that changes is
    the noise of training), and then, for every set, without it. A flip is confirmed if the margin moved by
    more than twice that noise. Where that does not flip the
    prediction, the set is enlarged by half along its ranking and tried again, `retrainings` times in all per
    query. A run that does not converge counts for nothing and is reported.

    Args:
        sets: as found for these queries.
        fitted: the fitted influence function.
        queries: all of them, in the order that `sets` counts in.
        recipe: `recipe(train, seed) -> model`.
        retrainings: at most, for each query.
        seed: of the recipe.

    Raises:
        ConvergenceError: the recipe does not converge on all the data.
        InputError: `retrainings` below 1, or as for `Retraining`.
    """
    retrainings, seed = whole("retrainings", retrainings, 1), whole("seed", seed)
    decision = resolve_decision(fitted.objective.loss)
    data = fitted.data
    retraining = retraining_of(fitted, recipe, queries, Measurement("outputs", _outputs))
    wanted = [found for found in sets if found.size is not None]

    def margin_of(outputs: np.ndarray, found: FlipSet) -> tuple[float, int]:
        scores = as_scores(torch.from_numpy(outputs[found.query : found.query + 1]))
        label = torch.tensor([found.number])
        return float(decision.margins(scores, label)[0]), int(decision.labels(scores)[0])

    with progress_bar("retraining", 2 + len(wanted), enabled=fitted.options.progress) as bar:
        baseline = retraining.baseline(data.given, seed)
        bar.advance()
        another = another_full_run(retraining, data, [seed])
        bar.advance()

        def confirmed(found: FlipSet) -> Confirmation:
            before, label = margin_of(baseline, found)
            noise = math.nan
            if another is not None:
                again, label_again = margin_of(another, found)
                noise = abs(again - before)
                label = label if label != found.number else label_again
            if label != found.number:
                return Confirmation(None, None, None, (), stable=False, noise=noise)
            tried: list[int] = []
            failed: dict[int, str] = {}
            margin: float | None = None
            became: Any = None
            for size in _sizes(found, retrainings):
                gone = found.ranking[:size]
                name = f"without{fingerprint(sorted(gone))[:24]}"
                tried.append(size)
                result = retraining.measured(name, partial(data.edited, drop=gone), seed)
                if isinstance(result, str):
                    failed[size] = result
                    continue
                margin, label = margin_of(result, found)
                became = found.label(label)
                if label != found.number:
                    # Twice the difference of two trainings; of one whose noise is not known nothing is said.
                    clear = before - margin > _CLEAR * noise
                    return Confirmation(
                        size if clear else None,
                        margin,
                        became,
                        tuple(tried),
                        failed=failed,
                        noise=noise,
                        hidden=not clear,
                    )
            return Confirmation(None, margin, became, tuple(tried), failed=failed, noise=noise)

        answers = []
        for found in sets:
            if found.size is None:
                answers.append(replace(found, confirmation=None))
                continue
            answers.append(replace(found, confirmation=confirmed(found)))
            bar.advance()
    return answers


def _sizes(found: FlipSet, count: int) -> list[int]:
    """The set's own, then each half as large again, within the ranking."""
    assert found.size is not None  # callers ask for sets that exist
    sizes = [found.size]
    while len(sizes) < count:
        size = min(math.ceil(sizes[-1] * _GROWTH), len(found.ranking))
        if size == sizes[-1]:
            break
        sizes.append(size)
    return sizes


def _outputs(outputs: Tensor, targets: Any) -> Tensor:
    """All scores of a query: what it predicts and by how much."""
    return outputs
