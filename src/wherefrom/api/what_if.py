"""What `Influence` offers for changed training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from wherefrom.api.held import Held
from wherefrom.evaluation import Recipe
from wherefrom.influence import LeaveOneOut, Measurement, leave_one_out
from wherefrom.interventions import (
    FlipOrder,
    Flips,
    Indices,
    Intervention,
    RemovalCurve,
    find_flips,
    removal_curve,
)


class WhatIf(Held):
    """What if examples went, weighed more, read otherwise, or were added: predicted, and carried out."""

    def leave_one_out(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        *,
        indices: Indices | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> LeaveOneOut:
        """Every single removal by a Newton step in closed form: first order corrected by the leverage; see
        `wherefrom.influence.leave_one_out`."""
        return leave_one_out(self.fitted, queries, measurement, indices=indices, reduction=reduction)

    def remove(self, indices: Indices) -> Intervention:
        """What if these training examples were taken out? See `wherefrom.interventions.Intervention`."""
        return self._intervention().remove(indices)

    def upweight(self, indices: Indices, times: float | int) -> Intervention:
        """What if these training examples counted `times` as much?"""
        return self._intervention().upweight(indices, times)

    def relabel(self, indices: Indices, labels: Any) -> Intervention:
        """What if these training examples had other targets?"""
        return self._intervention().relabel(indices, labels)

    def replace(self, indices: Indices, examples: Any) -> Intervention:
        """What if other examples stood in the place of these training examples?"""
        return self._intervention().replace(indices, examples)

    def add(self, examples: Any) -> Intervention:
        """What if the model had been trained on these examples too?"""
        return self._intervention().add(examples)

    def perturb(
        self, indices: Indices, delta: Any, *, valid_range: tuple[float, float] | None = None
    ) -> Intervention:
        """What if the inputs of these training examples were moved by `delta`?"""
        return self._intervention().perturb(indices, delta, valid_range=valid_range)

    def flip(
        self,
        queries: Any,
        *,
        max_size: int | None = None,
        order: FlipOrder = "auto",
        reduction: Literal["mean", "sum"] = "mean",
        rivals: int = 3,
    ) -> Flips:
        """Which smallest set of training examples, taken out, would flip each query's prediction? See
        `wherefrom.interventions.find_flips`; `.confirm(recipe)` retrains without them."""
        return find_flips(
            self.fitted,
            self.train,
            queries,
            max_size=max_size,
            order=order,
            reduction=reduction,
            rivals=rivals,
            run_dir=self._run_dir,
        )

    def removal_curve(
        self,
        order: Indices,
        sizes: Sequence[int],
        queries: Any,
        recipe: Recipe | None = None,
        **options: Any,
    ) -> RemovalCurve:
        """What removing the first few, and then more, of a ranking of training examples does: predicted, and
        retrained where a recipe is given; see `wherefrom.interventions.removal_curve`."""
        return removal_curve(
            self.fitted, self.train, order, sizes, queries, recipe, run_dir=self._run_dir, **options
        )

    def _intervention(self) -> Intervention:
        return Intervention(self.fitted, self.train, run_dir=self._run_dir)
