"""How a loss writes classes: given labels as class numbers, any class as a target, outputs as scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, CustomLoss, Logistic, Loss, SmoothHinge
from wherefrom.task import Examples, Objective


@dataclass(frozen=True)
class ClassLabels:
    """The classes of an objective.

    Attributes:
        loss: of the objective.
        values: what a target holds for each class, `(c,)`: `0 … c − 1`, or `−1` and `+1`.
        single: whether one output tells two classes apart, rather than one output per class.
        has_probabilities: whether the loss says how likely each class is.
        given: the user's labels as text, where they are not what the targets hold.
    """

    loss: Loss
    values: Float[Tensor, " c"]
    single: bool
    has_probabilities: bool
    given: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def default_names(self) -> tuple[str, ...]:
        """The classes as the user's targets write them."""
        return self.given or tuple(f"{value:g}" for value in self.values.tolist())

    def index(self, targets: Tensor, numbers: Int[Tensor, " b"], role: str) -> Int[Tensor, " b"]:
        """The class number of every target of a batch.

        Args:
            targets: of the batch.
            numbers: of its examples, for the error.
            role: of the data set, for the error.

        Raises:
            InputError: a target that is no class.
        """
        same = targets.reshape(-1, 1).double() == self.values.to(targets.device)
        if not bool(same.any(1).all()):
            at = int((~same.any(1)).nonzero()[0, 0])
            raise InputError(
                f"{role}: the label of example {int(numbers[at])} is {targets.reshape(-1)[at].item():g}, "
                f"outside the classes {self.default_names[0]} … {self.default_names[-1]}. Leave examples "
                "without a label of their own out of the data before labels are looked at."
            )
        return same.int().argmax(1).cpu()

    def output_gradient(self, outputs: Tensor, targets: Tensor, number: int) -> Tensor:
        """`∇_f ℓ` as if all of these examples had the label `number`, shaped like the outputs."""
        as_if = torch.full_like(targets, self.values[number].item())
        return self.loss.output_gradient(outputs, as_if)

    def scores(self, outputs: Tensor) -> Float[Tensor, "b c"]:
        """One score per class, in float64: the logits, or `(−f/2, +f/2)` for a single output `f`."""
        flat = outputs.double().reshape(outputs.shape[0], -1)
        return torch.cat([-flat / 2, flat / 2], dim=1) if self.single else flat

    def confidence(self, outputs: Tensor) -> Float[Tensor, "b c"]:
        """Probabilities of the classes where the loss has them, else their scores."""
        scores = self.scores(outputs)
        return scores.softmax(1) if self.has_probabilities else scores


def class_labels(objective: Objective) -> ClassLabels:
    """The classes of an objective, from its loss and the shapes of one batch.

    Softmax cross-entropy with class indices; binary cross-entropy of one output with labels 0 and 1; logistic
    loss and smooth hinge with labels −1 and +1; a loss function of one's own if outputs are `(b, c)` and
    targets integers `(b,)`, which are then read as classes `0 … c − 1`.

    Raises:
        UnsupportedError: a loss without classes, class probabilities as targets, or several labels an
            example.
    """
    loss, given = objective.loss, objective.class_names
    batch = objective.examples.batch([0])
    with torch.no_grad():
        outputs = objective.outputs(objective.parameters.values, batch)
    targets = objective.targets(batch)
    if isinstance(loss, (Logistic, SmoothHinge)):
        return ClassLabels(loss, _values(-1.0, 1.0), True, isinstance(loss, Logistic), given)
    if isinstance(loss, BinaryCrossEntropy):
        if outputs.numel() != 1:
            raise UnsupportedError(
                f"the loss {loss.name!r} has {outputs.numel()} labels an example; expected one output and "
                "one label, for which a wrong one can be named. Look at one label at a time."
            )
        return ClassLabels(loss, _values(0.0, 1.0), True, True, given)
    if not isinstance(loss, (CrossEntropy, CustomLoss)):
        raise UnsupportedError(
            f"the loss {loss.name!r} has no classes, so no label can be wrong in the sense meant here. "
            "Rank the examples with self_scores(), or by the size of their loss."
        )
    indices = isinstance(targets, Tensor) and targets.shape == (1,) and not targets.is_floating_point()
    if not indices or outputs.ndim != 2 or outputs.shape[1] < 2:
        found = (
            f"targets of shape {tuple(targets.shape)} ({targets.dtype})"
            if isinstance(targets, Tensor)
            else f"a target of type {type(targets).__name__}"
        )
        raise UnsupportedError(
            f"a batch of one example has outputs of shape {tuple(outputs.shape)} and {found}; expected class "
            "scores (b, c) and one class index per example, (b,). Labels of tokens and class probabilities "
            "are not looked at for errors."
        )
    numbers = torch.arange(outputs.shape[1]).double()
    return ClassLabels(loss, numbers, False, isinstance(loss, CrossEntropy), given)


def has_class_labels(objective: Objective) -> bool:
    """Whether every training example has one of the classes as its label, so that it can be looked at."""
    try:
        classes = class_labels(objective)
        for where, batch in objective.examples.batches(objective.pass_size):
            classes.index(objective.targets(batch), torch.arange(where.start, where.stop), "train")
    except InputError:  # no classes, or an example that has none of them
        return False
    return True


def require_examples(objective: Objective, data: object, role: str) -> Examples:
    """Other labelled examples, not empty.

    Raises:
        InputError: none, or of another kind than the training data.
    """
    if data is not None and hasattr(data, "__len__") and len(data) == 0:
        raise InputError(
            f"{role} is empty: expected labelled examples that the model was not trained on, or None to do "
            "without the signals that need them"
        )
    return objective.read(data, role=role)


def _values(*values: float) -> Float[Tensor, " c"]:
    return torch.tensor(values, dtype=torch.float64)
