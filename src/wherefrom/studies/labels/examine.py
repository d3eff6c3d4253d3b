"""One pass over training examples: everything about their labels that the linearised model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.gradients import ExampleGradients
from wherefrom.influence import Fit
from wherefrom.studies.labels.classes import ClassLabels, require_examples
from wherefrom.studies.labels.left_out import left_out_along_gradient, left_out_exactly
from wherefrom.task import check_examples


@dataclass(frozen=True)
class Direction:
    """`C_λ⁻¹ ∇m` for the mean validation loss, and the directions of its error, as columns; how many
    validation examples there are, and for how many the model says another class than their label."""

    columns: Float[Tensor, "p k"]
    count: int
    disagreements: int
    converged: bool


@dataclass(frozen=True)
class FoundSigns:
    """What is found for some of the examples; `error` has a column per class and one for the harm."""

    given: Int[Tensor, " b"]
    confidence: Float[Tensor, "b c"]
    loss: Float[Tensor, " b"]
    margin: Float[Tensor, " b"]
    left_out_loss: Float[Tensor, " b"]
    left_out_confidence: Float[Tensor, "b c"]
    held: int
    change: Float[Tensor, "b c"] | None
    harm: Float[Tensor, " b"] | None
    error: Float[Tensor, "b columns"] | None

    @classmethod
    def joined(cls, parts: list[FoundSigns]) -> FoundSigns:
        """The findings of consecutive examples as one."""

        def join(values: list[Any]) -> Any:
            if values[0] is None:
                return None
            return torch.cat(values) if isinstance(values[0], Tensor) else sum(values)

        return cls(**{name: join([getattr(part, name) for part in parts]) for name in cls.__annotations__})


def examine(
    fitted: Fit,
    classes: ClassLabels,
    index: Int[Tensor, " b"],
    self_influence: Float[Tensor, " b"],
    against: Direction | None,
    spread: Float[Tensor, "b o o"] | None,
) -> FoundSigns:
    """What the loss, the outputs and their linearisation say of some training examples.

    Args:
        fitted, classes: of the objective.
        index: the examples.
        self_influence: of them.
        against: the validation set's direction, if there is one.
        spread: `K` of `output_spread` for an exact left-out prediction; from self-influence otherwise.
    """
    objective = fitted.objective
    at = fitted.engine.linearise(objective.examples, index.to(objective.device))
    given = classes.index(at.targets, index, "train")
    own = at.output_gradient(objective.loss)
    loss = objective.loss
    moved = (
        left_out_along_gradient(
            loss,
            at.outputs,
            at.targets,
            own,
            self_influence,
            objective.n,
            whole=not fitted.prepared.approximates,
        )
        if spread is None
        else left_out_exactly(loss, at.outputs, at.targets, own, spread)
    )
    confidence = classes.confidence(at.outputs).cpu()
    change = harm = error = None
    if against is not None:
        tangents = at.jvp(against.columns).double()
        products_of = [inner(tangents, own)]
        for number in range(classes.count):
            as_if = classes.output_gradient(at.outputs, at.targets, number)
            products_of.append(inner(tangents, as_if - own))
        products = torch.stack(products_of[1:] + products_of[:1], dim=-1).cpu() / objective.n  # (k, b, c + 1)
        change, harm = -products[0, :, :-1], -products[0, :, -1]
        error = products[1:].norm(dim=0) if len(products) > 1 else torch.full_like(products[0], torch.nan)
    return FoundSigns(
        given=given,
        confidence=confidence,
        loss=loss(at.outputs, at.targets).detach().double().cpu(),
        margin=margin(confidence, given, classes.has_probabilities),
        left_out_loss=loss(moved.outputs, at.targets.cpu()),
        left_out_confidence=classes.confidence(moved.outputs),
        held=moved.held,
        change=change,
        harm=harm,
        error=error,
    )


def validation_direction(fitted: Fit, classes: ClassLabels, validation: Any) -> Direction:
    """`C_λ⁻¹` of the mean validation gradient: one solve.

    Raises:
        InputError: no validation examples, or one with a label outside the classes.
    """
    objective = fitted.objective
    examples = require_examples(objective, validation, "validation")
    check_examples(objective, examples, progress=False)
    disagreements = 0
    for where, outputs, targets in objective.passes(examples):
        labels = classes.index(targets, torch.arange(where.start, where.stop), "validation")
        disagreements += int((classes.scores(outputs).argmax(1).cpu() != labels).sum())
    gradient = ExampleGradients(fitted.engine, examples, objective.loss).mean().to(objective.dtype)
    solution = fitted.solve(gradient[:, None])
    return Direction(solution.columns, len(examples), disagreements, bool(solution.converged.all()))


def margin(
    confidence: Float[Tensor, "b c"], given: Int[Tensor, " b"], probabilities: bool
) -> Float[Tensor, " b"]:
    """How far the likeliest other class is ahead of the given one; scaled to [0, 1] for probabilities."""
    own = confidence.gather(1, given[:, None])[:, 0]
    other = confidence.scatter(1, given[:, None], -torch.inf).max(1).values
    return (1.0 + other - own) / 2 if probabilities else other - own


def relative_harm(harm: Float[Tensor, " k"], self_influence: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Harm over the root of self-influence; zero for an example without a gradient, which does no harm."""
    moves = self_influence > 0
    return torch.where(moves, harm / torch.where(moves, self_influence, 1.0).sqrt(), 0.0)


def inner(tangents: Tensor, cotangent: Tensor) -> Float[Tensor, "k b"]:
    """`Σ_outputs t u` per example, for each of the tangents."""
    product = tangents * cotangent.to(tangents)
    return product.flatten(2).sum(2) if product.ndim > 2 else product
