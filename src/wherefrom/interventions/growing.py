"""Groups that grow: what removing the first, the first two, … of a ranking does, predicted and retrained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import is_whole, seeds_of
from wherefrom.errors import InputError
from wherefrom.evaluation import Recipe
from wherefrom.influence import Fit, Measurement, resolve_measurement
from wherefrom.influence.scores import check_indices
from wherefrom.interventions.carry_out import carry_out, retraining_of
from wherefrom.interventions.change import Change
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.edits import Indices, remove
from wherefrom.interventions.outcome import Outcome
from wherefrom.interventions.predict import Order, predict_change

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RemovalCurve:
    """Growing groups of removed training examples.

    Attributes:
        order: training indices in the order of their removal, `(k,)`.
        sizes: how many are removed, `(s,)`.
        changes: the prediction for each size.
        outcomes: predicted beside actual for each size, where a recipe was given.
    """

    order: Int[np.ndarray, " k"]
    sizes: tuple[int, ...]
    changes: tuple[Change, ...]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def first(self) -> Float[np.ndarray, "s q"]:
        """First-order predictions: sums of single scores."""
        return np.stack([change.first.double().numpy() for change in self.changes])

    @property
    def predicted(self) -> Float[np.ndarray, "s q"]:
        """Predictions of the order asked for."""
        return np.stack([change.values.double().numpy() for change in self.changes])

    @property
    def actual(self) -> Float[np.ndarray, "s q"] | None:
        """By retraining; NaN in the rows of sizes whose retraining did not converge; `None` without a
        recipe."""
        return np.stack([outcome.actual for outcome in self.outcomes]) if self.outcomes else None

    @property
    def trusted(self) -> int:
        """The largest size up to which one more step would change no prediction by more than a tenth."""
        good = 0
        for size, change in zip(self.sizes, self.changes):
            if not change.converged or change.left_over > 0.1:
                break
            good = size
        return good

    def to_pandas(self) -> pandas.DataFrame:
        """One row per size: mean changes over the queries, and how far the predictions are to be trusted."""
        import pandas

        table = pandas.DataFrame(
            {
                "removed": self.sizes,
                "first_order": self.first.mean(axis=1),
                "predicted": self.predicted.mean(axis=1),
                "left_over": [change.left_over for change in self.changes],
                "beyond_first_order": [change.beyond_first_order for change in self.changes],
                "resolved": [change.mean_resolution().resolved for change in self.changes],
                "reason": [change.mean_resolution().reason for change in self.changes],
            }
        )
        actual = self.actual
        if actual is not None:
            table["actual"] = actual.mean(axis=1)
        return table


def removal_curve(
    fitted: Fit,
    order: Indices,
    sizes: Sequence[int],
    queries: Any,
    recipe: Recipe | None = None,
    *,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    prediction: Order = "auto",
    reduction: Reduction = "mean",
    seeds: Sequence[int] = (0,),
) -> RemovalCurve:
    """Remove the first `k` of a ranking, for growing `k`: where predictions stop being right.

    Args:
        fitted: the fitted influence function.
        order: training indices, the first to be removed first.
        sizes: how many are removed at each point of the curve.
        queries, measurement, reduction: of the predictions, see `predict_change`.
        recipe: carries each removal out; without it the curve is predicted only.
        prediction: order of the predictions.
        seeds: of the retraining.

    Raises:
        InputError: no size, or one that is not in `1..len(order)`; and as for `predict_change`.
    """
    index = check_indices(order, fitted.objective.n)
    seeds = seeds_of(seeds)
    wrong = [size for size in sizes if not is_whole(size) or not 1 <= size <= len(index)]
    if not len(sizes) or wrong:
        raise InputError(
            f"sizes={list(sizes)!r}: expected at least one, each from 1 to {len(index)}, the length of order"
        )
    measured = resolve_measurement(measurement, fitted.objective.loss)
    data = fitted.data
    retraining = None if recipe is None else retraining_of(fitted, recipe, queries, measured)
    changes, outcomes = [], []
    for size in sizes:
        edits = remove(index[:size], fitted.objective.n)
        if recipe is None:
            changes.append(
                predict_change(fitted, data, edits, queries, measured, order=prediction, reduction=reduction)
            )
            continue
        outcome = carry_out(
            fitted,
            edits,
            queries,
            recipe,
            measurement=measured,
            order=prediction,
            reduction=reduction,
            seeds=seeds,
            retraining=retraining,
        )
        outcomes.append(outcome)
        changes.append(outcome.change)
    return RemovalCurve(torch.as_tensor(index).numpy(), tuple(sizes), tuple(changes), tuple(outcomes))
