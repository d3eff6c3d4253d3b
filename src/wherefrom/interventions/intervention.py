"""What a user holds: a change of the training data that can be composed, predicted and carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from wherefrom.evaluation import Recipe
from wherefrom.influence import FittedInfluence, Measurement
from wherefrom.interventions import edits as edit
from wherefrom.interventions.carry_out import carry_out, edited_data
from wherefrom.interventions.change import Change
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.edits import Edits, Indices
from wherefrom.interventions.outcome import Outcome
from wherefrom.interventions.predict import Order, predict_change
from wherefrom.interventions.read_target import require_read_target
from wherefrom.task import OneAtATime, TrainingData

Measured = str | Measurement | Callable[[Tensor, Any], Tensor]


class Intervention(OneAtATime):
    """A set of changes of weight or content of training examples, of one fitted influence function.

    Made by `Influence.remove` and its kin; every method that edits returns a new intervention with that edit
    added, so they compose: `influence.remove([3]).relabel([5], 1).add(more)`. Nothing of the data that was
    given is written to.
    """

    def __init__(
        self, fitted: FittedInfluence, train: Any, edits: Edits | None = None, run_dir: Path | None = None
    ):
        self.fitted = fitted
        self.edits = edits or Edits()
        self._given = train
        self._data = TrainingData(train, fitted.objective.n)
        self._run_dir = run_dir

    @property
    def _train(self) -> Any:
        """The training set as it was given, unless it changed since."""
        self.fitted.objective.check_unchanged(data=True)
        return self._given

    def remove(self, indices: Indices) -> Intervention:
        """Take training examples out.

        Raises:
            InputError: none, one outside the training set or named twice, all of them, or one that is edited
                already.
        """
        return self._with(edit.remove(indices, self._data.n))

    def upweight(self, indices: Indices, times: float | int) -> Intervention:
        """Let training examples count `times` as much: 2 doubles them, 0 removes them.

        Raises:
            InputError: `times` is no finite number ≥ 0; indices as for `remove`.
        """
        return self._with(edit.upweight(indices, times, self._data.n))

    def relabel(self, indices: Indices, labels: Any) -> Intervention:
        """Give training examples other targets: one for all, or one for each.

        Raises:
            InputError: another number of labels than examples; a label outside the classes is refused when
                the change is predicted.
        """
        form = self.fitted.objective.form
        given = labels if form is None else form.labels(labels, "labels")
        edits = edit.relabel(indices, given, self._data)
        require_read_target(self.fitted.objective, edits, self._data)
        return self._with(edits)

    def replace(self, indices: Indices, examples: Any) -> Intervention:
        """Put other examples in the place of training examples, in any form the training set may have.

        Raises:
            InputError: another number of examples, or of another form.
        """
        given = self.fitted.objective.given(examples, "examples")
        return self._with(edit.replace(indices, given, self._data))

    def add(self, examples: Any) -> Intervention:
        """Add examples that are not in the training set.

        Raises:
            InputError: none, or of another form.
        """
        given = self.fitted.objective.given(examples, "examples")
        return self._with(edit.add(given, self._data))

    def perturb(
        self, indices: Indices, delta: Any, *, valid_range: tuple[float, float] | None = None
    ) -> Intervention:
        """Move the inputs of training examples by `δ`, one for all or one for each.

        Args:
            indices: which.
            delta: shaped like an input, or one such for each example.
            valid_range: smallest and largest value an entry may take.

        Raises:
            InputError: inputs that are not continuous, `δ` of another shape, or an edit that leaves
                `valid_range`.
        """
        return self._with(edit.perturb(indices, delta, self._data, valid_range))

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
        self.fitted.objective.check_unchanged(data=True)
        return edited_data(self._data, self.edits, weighted=False)[0]

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
            self.fitted, self._data, self.edits, queries, measurement, order=order, reduction=reduction
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
            self._train,
            self.edits,
            queries,
            recipe,
            measurement=measurement,
            order=order,
            reduction=reduction,
            seeds=seeds,
            run_dir=self._run_dir,
        )

    def __repr__(self) -> str:
        return f"Intervention({', '.join(self.edits.words) or 'nothing yet'})"

    def _with(self, edits: Edits) -> Intervention:
        return Intervention(self.fitted, self._train, self.edits.and_then(edits), self._run_dir)
