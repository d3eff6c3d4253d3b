"""No intervention may take the last example of a class: the model would be asked for what it never saw."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.interventions.edits import Edits
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, SmoothHinge
from wherefrom.task import Examples, Objective, as_given, class_numbers


def require_classes(objective: Objective, new: Examples | None, edits: Edits, changed: list[int]) -> None:
    """Refuse an intervention after which a class of the training set has no example of any weight.

    Args:
        objective: of the fit; losses without classes are not looked at.
        new: contents of the `changed` examples, then the added ones.
        edits: the intervention.
        changed: training indices whose content is new.

    Raises:
        InputError: naming the class.
    """
    before = _labels(objective, objective.examples)
    if before is None:
        return
    kept = torch.ones(len(before), dtype=torch.bool)
    gone = [i for i, weight in edits.weights.items() if weight == 0]
    kept[[*gone, *changed]] = False
    after = before[kept]
    if new is not None:
        labels = _labels(objective, new)
        if labels is not None:
            counted = [edits.weights.get(i, 1.0) > 0 for i in changed] + [True] * len(edits.added)
            after = torch.cat([after, labels[torch.tensor(counted)]])
    left = set(after.unique().tolist())
    lost = [label for label in before.unique().tolist() if label not in left]
    if lost:
        count = int((before == lost[0]).sum())
        raise InputError(
            f"the intervention takes away all {count} training examples of class "
            f"{as_given(lost[0], objective.classes)!r}: without it the "
            "task is another one. Keep at least one example of each class, or study a model without it."
        )


def _labels(objective: Objective, examples: Examples) -> Int[Tensor, " n"] | None:
    """One class number per example, or `None` where targets are no such thing."""
    if not isinstance(objective.loss, (CrossEntropy, BinaryCrossEntropy, Logistic, SmoothHinge)):
        return None
    labels = class_numbers(objective, examples)
    # -100 and its like mark what is ignored.
    return None if labels is None or int(labels.min()) < -1 else labels
