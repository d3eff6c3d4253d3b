"""What an attack on a head arrived at, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.influence.measurements import Measurement
from wherefrom.studies.attack.budget import Budget
from wherefrom.studies.attack.head import Refit


@dataclass(frozen=True)
class Method:
    """How an attack proceeds.

    Attributes:
        edits: training examples edited by each attack.
        budget: what an edit may look like.
        measurement: raised if low is good (a loss), lowered if high is good (a margin).
        steps: at most.
        step_size: of each, in the unit of the budget's radius.
        candidates: training indices that may be edited.
        fixed: edit exactly these, instead of choosing.
        shortlist: see `choose_examples`.
    """

    edits: int
    budget: Budget
    measurement: Measurement
    steps: int
    step_size: float
    candidates: Int[Tensor, " m"]
    fixed: Int[Tensor, " k"] | None = None
    shortlist: int | None = None

    @property
    def sign(self) -> float:
        """`+1` where the measurement is to be raised."""
        return -1.0 if self.measurement.higher_is_better else 1.0


@dataclass(frozen=True)
class AttackStep:
    """The state after some steps of an attack.

    Attributes:
        step: how many.
        value: mean of the measurement over the targeted queries, after refitting.
        flipped: how many of them are predicted as another class than without the attack.
    """

    step: int
    value: float
    flipped: int


@dataclass(frozen=True)
class AttackOutcome:
    """One attack on a head: the state with most flips, and among those of largest effect.

    Attributes:
        index: training examples edited, `(k,)`.
        original, edited: their inputs, `(k, *x)`.
        head: the optimum on the edited training set, `(c, d)`.
        before, after: predicted classes of the targeted queries, `(g,)`.
        converged: whether the head reached its optimum.
        distance: what is left of the gradient, in units of what removing one example changes.
        history: step by step.
    """

    index: Int[Tensor, " k"]
    original: Float[Tensor, " k *x"]
    edited: Float[Tensor, " k *x"]
    head: Float[Tensor, "c d"]
    before: Int[Tensor, " g"]
    after: Int[Tensor, " g"]
    converged: bool
    distance: float
    history: list[AttackStep] = field(default_factory=list)

    @property
    def flipped(self) -> Bool[Tensor, " g"]:
        """Which targeted queries are predicted as another class after retraining; none if that did not
        converge."""
        return (self.before != self.after) & self.converged


class Record:
    """Histories of `B` attacks, and the best state of each so far."""

    def __init__(
        self, index: Int[Tensor, "B k"], original: Float[Tensor, "B k *x"], before: Int[Tensor, "B g"]
    ):
        self._index, self._original, self._before = index, original, before
        self._best: list[tuple[tuple[bool, int, float], AttackOutcome] | None] = [None] * len(index)
        self._history: list[list[AttackStep]] = [[] for _ in range(len(index))]
        self.done = torch.zeros(len(index), dtype=torch.bool, device=index.device)

    def add(
        self,
        rows: Int[Tensor, " a"],
        edited: Float[Tensor, "a k *x"],
        fit: Refit,
        values: Float[Tensor, " a"],
        after: Int[Tensor, "a g"],
        sign: float,
    ) -> None:
        """The state of some attacks after one more step."""
        for r, i in enumerate(rows.tolist()):
            flips = int((after[r] != self._before[i]).sum())
            value, converged = float(values[r]), bool(fit.converged[r])
            self._history[i].append(AttackStep(len(self._history[i]), value, flips))
            rank, best = (converged, flips, sign * value), self._best[i]
            if best is None or rank > best[0]:
                made = AttackOutcome(
                    self._index[i],
                    self._original[i],
                    edited[r].clone(),
                    fit.heads[r].clone(),
                    self._before[i],
                    after[r],
                    converged,
                    float(fit.distance[r]),
                    self._history[i],
                )
                self._best[i] = (rank, made)
            self.done[i] = converged and flips == self._before.shape[1]

    def outcomes(self) -> list[AttackOutcome]:
        """The best of each."""
        return [best[1] for best in self._best if best is not None]
