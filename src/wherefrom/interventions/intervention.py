"""What a user holds: a change of the training data that can be composed, predicted and carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wherefrom.evaluation import Recipe
from wherefrom.influence import Fit, Measured
from wherefrom.interventions.carry_out import carry_out, edited_data
from wherefrom.interventions.change import Change
from wherefrom.interventions.editable import Editable
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.edits import Edits
from wherefrom.interventions.outcome import Outcome
from wherefrom.interventions.predict import Order, predict_change
from wherefrom.task import Data, OneAtATime


class Intervention(Editable, OneAtATime):
    """A set of changes of weight or content of training examples, of one fitted influence function.

    Made by `Influence.remove` and the other edits, which it has too.
    """

    def __init__(self, fitted: Fit, edits: Edits | None = None):
        self.fitted = fitted
        self.edits = edits or Edits()
        self.objective = fitted.objective

    @property
    def _source(self) -> Data:
        return self.fitted.data

    def __and__(self, other: Intervention) -> Intervention:
        """Both interventions."""
        if not isinstance(other, Intervention):
            return NotImplemented
        return self._with(other.edits)

    def data(self) -> Any:
        """The edited training set, in the form of the given one; weights become repetitions.

        Raises:
            InputError: a weight that is not whole.
        """
        return edited_data(self._source, self.edits, weighted=False)[0]

    def change(
        self,
        queries: Any,
        measurement: Measured = "loss",
        *,
        order: Order = "auto",
        reduction: Reduction = "mean",
    ) -> Change:
        """The predicted change of a measurement on every query, and of the parameters; see
        `predict_change`."""
        return predict_change(
            self.fitted, self._source, self.edits, queries, measurement, order=order, reduction=reduction
        )

    def retrain(
        self,
        recipe: Recipe,
        queries: Any,
        measurement: Measured = "loss",
        *,
        order: Order = "auto",
        reduction: Reduction = "mean",
        seeds: Sequence[int] = (0,),
    ) -> Outcome:
        """Carry the intervention out with the recipe, and set the prediction beside what happened; see
        `carry_out`."""
        return carry_out(
            self.fitted,
            self.edits,
            queries,
            recipe,
            measurement=measurement,
            order=order,
            reduction=reduction,
            seeds=seeds,
        )

    def __repr__(self) -> str:
        return f"Intervention({', '.join(self.edits.words) or 'nothing yet'})"

    def _with(self, edits: Edits) -> Intervention:
        return Intervention(self.fitted, self.edits.and_then(edits))
