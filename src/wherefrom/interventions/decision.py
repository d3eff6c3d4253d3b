"""What a model decides from its outputs, and by what margin it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Fit, Measurement
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, Loss, SmoothHinge
from wherefrom.task import Examples


@dataclass(frozen=True)
class Decision:
    """From outputs to a label: the class of the largest score, or the side of zero of a single score.

    Attributes:
        sides: labels of a single score `f ≤ 0` and `f > 0`; `None` for one score per class.
    """

    sides: tuple[int, int] | None

    def labels(self, scores: Float[Tensor, "b c"]) -> Int[Tensor, " b"]:
        """What is predicted."""
        if self.sides is None:
            return scores.argmax(1)
        return torch.where(scores[:, 0] > 0, self.sides[1], self.sides[0])

    def rivals(self, classes: int) -> int:
        """Labels that a prediction may turn into."""
        return classes - 1 if self.sides is None else 1

    def directions(self, scores: Float[Tensor, "b c"], rank: int) -> Float[Tensor, "b c"]:
        """`e` with `eᵀf` the margin over the rival of this rank, 1 being the runner-up: `+1` at the
        prediction, `−1` at the rival; for a single score its sign."""
        if self.sides is not None:
            return torch.where(scores > 0, 1.0, -1.0).to(scores)
        order = scores.argsort(dim=1, descending=True, stable=True)
        made = torch.zeros_like(scores)
        made.scatter_(1, order[:, :1], 1.0)
        return made.scatter_(1, order[:, rank : rank + 1], -1.0)

    def rival_labels(self, directions: Float[Tensor, "b c"]) -> Int[Tensor, " b"]:
        """The labels that `directions` point away from."""
        if self.sides is None:
            return directions.argmin(1)
        return torch.where(directions[:, 0] > 0, self.sides[0], self.sides[1])

    def margins(self, scores: Float[Tensor, "b c"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """By how much these labels win: below zero, another one is predicted."""
        if self.sides is not None:
            return torch.where(labels == self.sides[1], scores[:, 0], -scores[:, 0])
        own = torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
        return scores[own] - scores.masked_fill(own, -torch.inf).amax(1)

    def measurement(self, rank: int) -> Measurement:
        """The margin over the rival of this rank, whatever the targets."""

        def margin(outputs: Tensor, targets: Any) -> Tensor:
            scores = as_scores(outputs)
            return (self.directions(scores.detach(), rank) * scores).sum(1)

        return Measurement(f"decision margin {rank}", margin, higher_is_better=True)


def resolve_decision(loss: Loss) -> Decision:
    """How predictions are read off outputs trained with this loss.

    Raises:
        UnsupportedError: a loss without classes.
    """
    if isinstance(loss, CrossEntropy):
        return Decision(None)
    if isinstance(loss, BinaryCrossEntropy):
        return Decision((0, 1))
    if isinstance(loss, (Logistic, SmoothHinge)):
        return Decision((-1, 1))
    raise UnsupportedError(
        f"loss {loss.name!r} predicts no class, so there is nothing to flip; expected 'cross_entropy', "
        "'binary_cross_entropy', 'logistic' or SmoothHinge. For other measurements predict the change, with "
        "remove(...).change(queries, measurement)."
    )


def as_scores(outputs: Tensor) -> Float[Tensor, "b c"]:
    """Outputs with one dimension beside the example."""
    return outputs[:, None] if outputs.ndim == 1 else outputs


def decision_scores(fitted: Fit, examples: Examples, decision: Decision) -> Float[Tensor, "q c"]:
    """Class scores of the given model on the queries, in float64.

    Raises:
        UnsupportedError: several decisions per example (tokens, several labels).
    """
    objective = fitted.objective
    parts = []
    for _, outputs, _ in objective.passes(examples):
        _require_one_decision(outputs, decision)
        parts.append(as_scores(outputs).double())
    return torch.cat(parts)


def _require_one_decision(outputs: Tensor, decision: Decision) -> None:
    each = 1 if outputs.ndim == 1 else outputs.shape[1]
    if outputs.ndim > 2 or (each != 1) == (decision.sides is not None):
        expected = "one score" if decision.sides is not None else "one score per class"
        raise UnsupportedError(
            f"outputs have shape {tuple(outputs.shape)}; to flip a prediction there must be one per query: "
            f"expected {expected} for each example"
        )
