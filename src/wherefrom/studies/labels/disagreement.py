"""How often labels differ from what the model says, in three ways that together tell how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Left-out predictions that err less than the model does on new examples, by more than this many standard
# errors, still know the labels they claim not to have seen.
_STANDARD_ERRORS = 3.0
_TINY = 1e-300


@dataclass(frozen=True)
class Disagreement:
    """Labels that are not the class the model says.

    Attributes:
        examples: training examples looked at.
        in_sample: how many of their labels differ from the class of the model as it is.
        left_out: from the class predicted for a model trained without the example.
        validation: validation examples; 0 for none.
        on_validation: how many of their labels differ from the class of the model.
    """

    examples: int
    in_sample: int
    left_out: int
    validation: int = 0
    on_validation: int = 0

    @property
    def memorised(self) -> float:
        """Share of the left-out disagreement that the model, having seen the labels, no longer shows: 0 for
        one that learnt none by heart, 1 for one that learnt them all."""
        return max(0.0, 1.0 - self.in_sample / self.left_out) if self.left_out else 0.0

    @property
    def too_good(self) -> bool:
        """Whether the left-out predictions err far less than the model does on validation examples."""
        if not self.validation:
            return False
        left_out, new = self.left_out / self.examples, self.on_validation / self.validation
        spread = left_out * (1 - left_out) / self.examples + new * (1 - new) / self.validation
        return new - left_out > _STANDARD_ERRORS * spread**0.5


def mean_confidence(
    confidence: Float[Tensor, "k c"], left_out: Float[Tensor, "k c"], probabilities: bool
) -> Float[Tensor, "k c"]:
    """Half way, in scores, between the model as it is and the one without the example; rows sum to one.

    The first is drawn towards the label it was trained on and the second, being a step away from it, is often
    pushed too far from it: their mean leans less to either side.
    """
    scores = [p.clamp(min=_TINY).log() if probabilities else p for p in (confidence, left_out)]
    return ((scores[0] + scores[1]) / 2).softmax(1)


def most_confident(confidence: Float[Tensor, "k c"], share: float) -> Int[Tensor, " m"]:
    """Of every predicted class the `share` of examples that the model is surest of, at least one."""
    best = confidence.max(1)
    order = best.values.argsort(descending=True, stable=True)
    classes = best.indices[order]
    parts = []
    for number in classes.unique().tolist():
        members = order[classes == number]
        parts.append(members[: max(1, round(share * len(members)))])
    return torch.cat(parts)
