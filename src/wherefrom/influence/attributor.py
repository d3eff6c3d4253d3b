"""What everything above scores asks for: an attributor of predictions to training examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import Coverage
from wherefrom.influence.identity import fit_identity, identity_of
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.minimum import MinimumCheck
from wherefrom.influence.scores import Scores
from wherefrom.influence.self_scores import SelfScores
from wherefrom.store.not_pickled import NotPickled
from wherefrom.task import Data, Objective, OneAtATime

Estimand = Literal["removal at a minimum", "expected retraining", "this run", "similarity"]
Measured = str | Measurement | Callable[[Tensor, Any], Tensor]

_MEANINGS: dict[Estimand, str] = {
    "removal at a minimum": "the change when one example is removed and the optimum is found anew",
    "expected retraining": "the expected change when the model is trained again, over seeds",
    "this run": "the change when this very training run, with its seed, is repeated",
    "similarity": "no change of anything: an order of likeness, without a size",
}


class Attributor(OneAtATime, NotPickled, ABC):
    """Gives every training example a score for every query. `Influence` is one; a subclass with `scores` is
    another, and `verify`, `labels`, `slices`, `report` and every study take it.

    Args:
        objective: model, loss and training data: what queries are measured on, and examples shown from.
        run_dir: keeps what took long, see `Influence`.
        progress: show progress bars when standard error is a terminal.

    Attributes:
        name: of the method, for people.
        estimand: what the scores predict: `"removal at a minimum"`, `"expected retraining"`, `"this run"`, or
            `"similarity"`, which predicts an order only.

    What a method cannot do stays as it is here, and is refused by name.
    """

    name: str = ""
    estimand: Estimand = "similarity"

    def __init__(
        self, objective: Objective, *, run_dir: str | Path | None = None, progress: bool = True
    ) -> None:
        if not isinstance(objective, Objective):
            raise InputError(
                f"objective is a {type(objective).__name__}; expected a wherefrom.Objective(model, train, "
                "loss=…)"
            )
        self.objective = objective
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.progress = progress

    def _ready(self) -> None:
        self.objective.check_unchanged()

    @property
    def data(self) -> Data:
        """The training set as it was given.

        Raises:
            InputError: it changed since.
        """
        self.objective.check_unchanged(data=True)
        return self.objective.data

    @property
    def train(self) -> Any:
        """The same object that was given.

        Raises:
            InputError: it changed since.
        """
        return self.data.given

    @cached_property
    def identity(self) -> str:
        """A fingerprint of model, data, loss and regulariser: results are of this fit or of another."""
        return fit_identity(self.objective)

    @property
    def minimum(self) -> MinimumCheck | None:
        """Whether the parameters are a minimum of the objective; `None` where that was not checked."""
        return None

    @property
    def method(self) -> str:
        """The method's name as people read it."""
        return self.name or type(self).__name__

    @property
    def approximation(self) -> str:
        """What the method leaves out by design, in plain words; empty if nothing."""
        return ""

    @property
    def limit(self) -> Literal["good", "fair", "poor"]:
        """The most that may be said of answers of this approximation without retraining."""
        return "fair"

    @property
    def covered(self) -> Sequence[Coverage]:
        """Which layer rule attributes which parameters, where the method treats layers apart."""
        return ()

    @property
    def has_self_scores(self) -> bool:
        """Whether it has scores of training examples for themselves."""
        return type(self).self_scores is not Attributor.self_scores

    def settings(self) -> dict[str, Any]:
        """Everything that defines the scores, as JSON values."""
        return {"method": self.method, "estimand": self.estimand, "n": self.objective.n}

    @abstractmethod
    def scores(self, queries: Any, measurement: Measured = "loss") -> Scores:
        """A score for every query and training example, `(q, n)`.

        With a loss measured, positive means *helpful*: the query would be served worse without the example;
        but for similarities `score / n` predicts the change of the measurement.
        """

    def self_scores(self, indices: Sequence[int] | Tensor | np.ndarray | None = None) -> SelfScores:
        """How much each training example rests on itself, `(k,)`.

        Raises:
            UnsupportedError: this method has no such scores.
        """
        self.refuse("self_scores", "scores of training examples for themselves")

    def scored(
        self,
        values: Float[Tensor, "q n"],
        queries: Any,
        measurement: Measured = "loss",
        *,
        error: Float[Tensor, "q n"] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Scores:
        """`Scores` of this attributor from the numbers alone.

        Args:
            values: the scores.
            queries, measurement: as `scores` was called with.
            error: expected numerical error of each; infinite, not known, where it is not given.
            settings: beside those of `settings()`.

        Raises:
            InputError: another shape than queries × training examples, or a score that is not finite.
        """
        measured = resolve_measurement(measurement, self.objective.loss)
        examples = self.objective.read(queries, role="queries")
        expected = (len(examples), self.objective.n)
        if tuple(values.shape) != expected:
            raise InputError(
                f"values has shape {tuple(values.shape)}; expected {expected}, queries × training examples"
            )
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"values of {self.method} hold NaN or infinity; expected finite scores")
        unknown = values.new_full((1, 1), torch.inf).expand_as(values)
        return Scores(
            values=values.detach().cpu(),
            error=unknown if error is None else error,
            bound=unknown,
            bound_proven=False,
            converged=torch.ones(len(values), dtype=torch.bool),
            reason="",
            relative_residual=torch.zeros(len(values), dtype=values.dtype),
            measurement=measured.name,
            higher_is_better=measured.higher_is_better,
            estimand=self.estimand,
            settings={**self.settings(), **(settings or {}), "measurement": measured.name},
            identity=identity_of(self.identity, examples, measured),
        )

    def refuse(self, what: str, words: str, instead: str = "Use wherefrom.Influence for them.") -> NoReturn:
        """Say that this method cannot do something.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{what}: {self.method} has no {words}. {instead}")


def estimand_words(estimand: str) -> str:
    """What scores of this estimand predict, in plain words."""
    return _MEANINGS.get(estimand, estimand)  # type: ignore[call-overload]
