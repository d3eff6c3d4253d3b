"""What if the training data were changed? The edits, as methods of whatever can be edited."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from wherefrom.interventions import edits as edit
from wherefrom.interventions.edits import Edits, Indices
from wherefrom.interventions.read_target import require_read_target
from wherefrom.task import Data, Objective

if TYPE_CHECKING:
    from wherefrom.interventions.intervention import Intervention


class Editable(ABC):
    """Every method returns an `Intervention` with that edit added, so they compose:
    `influence.remove([3]).relabel([5], 1).add(more)`. Nothing of the data that was given is written to.

    Attributes:
        objective: of the model whose training set is edited.
    """

    objective: Objective

    @property
    @abstractmethod
    def _source(self) -> Data:
        """The training set as it was given, unless it changed since."""

    @abstractmethod
    def _with(self, edits: Edits) -> Intervention:
        """The intervention with these edits added."""

    def remove(self, indices: Indices) -> Intervention:
        """Take training examples out.

        Raises:
            InputError: none, one outside the training set or named twice, all of them, or one that is edited
                already.
        """
        return self._with(edit.remove(indices, self._source.n))

    def upweight(self, indices: Indices, times: float | int) -> Intervention:
        """Let training examples count `times` as much: 2 doubles them, 0 removes them.

        Raises:
            InputError: `times` is no finite number ≥ 0; indices as for `remove`.
        """
        return self._with(edit.upweight(indices, times, self._source.n))

    def relabel(self, indices: Indices, labels: Any) -> Intervention:
        """Give training examples other targets: one for all, or one for each.

        Raises:
            InputError: another number of labels than examples; a label outside the classes is refused when
                the change is predicted.
        """
        form = self.objective.form
        given = labels if form is None else form.labels(labels, "labels")
        edits = edit.relabel(indices, given, self._source)
        require_read_target(self.objective, edits, self._source)
        return self._with(edits)

    def replace(self, indices: Indices, examples: Any) -> Intervention:
        """Put other examples in the place of training examples, in any form the training set may have.

        Raises:
            InputError: another number of examples, or of another form.
        """
        given = self.objective.given(examples, "examples")
        return self._with(edit.replace(indices, given, self._source))

    def add(self, examples: Any) -> Intervention:
        """Add examples that are not in the training set.

        Raises:
            InputError: none, or of another form.
        """
        given = self.objective.given(examples, "examples")
        return self._with(edit.add(given, self._source))

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
        return self._with(edit.perturb(indices, delta, self._source, valid_range))
