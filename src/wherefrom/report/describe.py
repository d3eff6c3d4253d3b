"""Default cards for training examples and queries: content, label and what the model predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, Loss, SmoothHinge
from wherefrom.report.cards import Card, guess_content, merge_card
from wherefrom.report.images import Scale, common_scale
from wherefrom.task import Data, Examples, Objective

# Pictures whose values give the scale of all.
_SCALED = 64

Describe = Callable[[int], Any]  # index -> Card, dict or text


@dataclass(frozen=True)
class Describer:
    """Cards of a data set, by index.

    Attributes:
        objective: gives targets and, for queries, predictions.
        data: as the user gave it; raw items are shown, not batches.
        examples: the same, readable by the objective.
        role: `"train"` or `"query"`: the title of a card and whether it holds a prediction.
        describe: the user's own description; wins over the default.
        class_names: names of the classes.
        numbers: how the examples are numbered where `data` is a selection.
        like: the cards whose scale of pictures is used here too; `None`: a scale of one's own.
    """

    objective: Objective
    data: Any
    examples: Examples
    role: str
    describe: Describe | None = None
    class_names: Sequence[str] | None = None
    numbers: Sequence[int] | None = None
    like: Describer | None = None

    @cached_property
    def scale(self) -> Scale | None:
        """Black and white of all pictures, from some that are spread over the data set; `None` where they are
        bytes or lie between 0 and 1, or there are none."""
        if self.like is not None:
            return self.like.scale
        cards = [self._card(i) for i in self.examples.spread(min(_SCALED, len(self.examples)))]
        return common_scale([card.image for card in cards if card.image is not None])

    def __call__(self, index: int) -> Card:
        card = self._card(index)
        if card.image is None or card.scale is not None or self.scale is None:
            return card
        return replace(card, scale=self.scale)

    def _card(self, index: int) -> Card:
        number = index if self.numbers is None else self.numbers[index]
        batch = self.examples.batch([index])
        target = self.objective.targets(batch)
        label = label_text(target, self.class_names, self.objective.loss)
        card = guess_content(
            Data(self.data, len(self.examples)).inputs(index), f"{self.role} {number}", label
        )
        if self.role == "query":
            with torch.no_grad():
                outputs = self.objective.outputs(self.objective.parameters.values, batch)
            predicted, probability = prediction(self.objective.loss, outputs, self.class_names)
            card = replace(card, predicted=predicted, probability=probability)
        return card if self.describe is None else merge_card(card, self.describe(number))


def label_text(target: Any, class_names: Sequence[str] | None, loss: Loss | None = None) -> str | None:
    """The target of a batch of one as text; `None` if it is no single number. The loss tells labels −1 and +1
    from class numbers."""
    if not isinstance(target, Tensor) or target.numel() != 1:
        return None
    value = target.reshape(-1)[0].item()
    if isinstance(loss, (Logistic, SmoothHinge)):
        return _sign_name(value > 0, class_names)
    if float(value).is_integer():
        return _class_name(int(value), class_names)
    return f"{value:.4g}"


def prediction(
    loss: Loss, outputs: Tensor, class_names: Sequence[str] | None
) -> tuple[str | None, float | None]:
    """What the outputs of a batch of one mean, and its probability where the loss has one."""
    flat = outputs.detach().double().reshape(outputs.shape[0], -1)[0]
    if isinstance(loss, CrossEntropy):
        if outputs.ndim != 2:
            return None, None
        probabilities = flat.softmax(0)
        best = int(probabilities.argmax())
        return _class_name(best, class_names), float(probabilities[best])
    if flat.numel() != 1:
        return None, None
    value = float(flat[0])
    certain = float(torch.sigmoid(flat[0].abs()))
    if isinstance(loss, BinaryCrossEntropy):
        return _class_name(int(value > 0), class_names), certain
    if isinstance(loss, (Logistic, SmoothHinge)):
        return _sign_name(value > 0, class_names), certain if isinstance(loss, Logistic) else None
    return f"{value:.4g}", None


def _sign_name(positive: bool, class_names: Sequence[str] | None) -> str:
    """Of labels −1 and +1, which two names are names of in this order."""
    if class_names is not None and len(class_names) == 2:
        return str(class_names[int(positive)])
    return "1" if positive else "-1"


def _class_name(index: int, class_names: Sequence[str] | None) -> str:
    named = class_names is not None and 0 <= index < len(class_names)
    return str(class_names[index]) if named and class_names is not None else str(index)
