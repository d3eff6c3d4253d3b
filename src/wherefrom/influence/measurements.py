"""Measurements `m(θ)`: what about a query is traced back to the training examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import BatchDependenceError, InputError, NonFiniteError, UnsupportedError
from wherefrom.influence.resolution import ANY, Range
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, Loss, SmoothHinge
from wherefrom.names import resolve_name
from wherefrom.task import Examples, Objective, Seen

MEASUREMENTS = ("loss", "margin", "logit")


@dataclass(frozen=True)
class Measurement:
    """One number per query, differentiable in the outputs.

    Attributes:
        name: for tables and reports.
        function: `(outputs, targets) -> (b,)`.
        higher_is_better: a loss is better low, a margin or a logit better high; decides what "helpful" means.
        range: the least and the most that it can be, `(0.0, 1.0)` for a probability: a predicted change that
            leaves it is shown as impossible. Infinite where it has no end or none is known.
    """

    name: str
    function: Callable[[Tensor, Any], Tensor]
    higher_is_better: bool = False
    range: Range = ANY


def resolve_measurement(
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor], loss: Loss
) -> Measurement:
    """A measurement from its name or from a function of `(outputs, targets)`.

    `"loss"` is the training loss; `"margin"` is `log p_y/(1 − p_y)` for class scores and the signed score
    `y·f` for a single one; `"logit"` is the score of the target class.

    Raises:
        InputError: an unknown name.
        UnsupportedError: a margin or logit for a loss without classes, or for token targets.
    """
    if isinstance(measurement, Measurement):
        return measurement
    if callable(measurement):
        return Measurement(getattr(measurement, "__name__", "measurement"), measurement)
    also = "a Measurement, or a function of (outputs, targets)"
    measurement = resolve_name("measurement", measurement, MEASUREMENTS, also=also)
    if measurement == "loss":
        return Measurement("loss", loss, range=loss.range)
    if isinstance(loss, CrossEntropy):
        return Measurement(measurement, _class_margin if measurement == "margin" else _class_logit, True)
    if isinstance(loss, (Logistic, SmoothHinge)):
        return Measurement(measurement, _signed_margin, True)
    if isinstance(loss, BinaryCrossEntropy):
        return Measurement(measurement, _binary_margin, True)
    raise UnsupportedError(
        f"measurement={measurement!r} needs class scores, and loss {loss.name!r} has none. Pass a function "
        "of (outputs, targets)."
    )


def measured_now(objective: Objective, examples: Examples, measurement: Measurement) -> Float[Tensor, " q"]:
    """The measurement of every example as the model is: in float64, on the CPU."""
    return objective.measured(examples, measurement.function).double().cpu()


def check_measurement(objective: Objective, examples: Examples, measurement: Measurement, seen: Seen) -> None:
    """One finite, differentiable number per query, the same alone as among others.

    Raises:
        InputError, NonFiniteError, BatchDependenceError: it is not, with what was found.
    """
    chosen = seen.telling()
    together = _measured(objective, examples, measurement, chosen)
    alone = torch.cat([_measured(objective, examples, measurement, [i]) for i in chosen])
    gap = (together - alone).abs() / (1 + alone.abs())
    if bool((gap > 1e4 * torch.finfo(objective.dtype).eps).any()):
        worst = int(gap.argmax())
        raise BatchDependenceError(
            f"measurement {measurement.name!r} of query {chosen[worst]} is {float(together[worst]):.6g} in "
            "a batch of "
            f"{len(chosen)} but {float(alone[worst]):.6g} alone. Return one number per query from that "
            "query's outputs only."
        )


def _measured(
    objective: Objective, examples: Examples, measurement: Measurement, indices: list[int]
) -> Tensor:
    batch = examples.batch(indices)
    with torch.no_grad():
        outputs = objective.outputs(objective.parameters.values, batch)
    leaf = outputs.detach().requires_grad_()
    with torch.enable_grad():
        values = measurement.function(leaf, objective.targets(batch))
    name = measurement.name
    if not isinstance(values, Tensor) or values.shape != (len(indices),):
        found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise InputError(
            f"measurement {name!r} returned {found} for {len(indices)} queries; expected one number per "
            "query, shape "
            f"({len(indices)},). Do not average over the batch (reduction='none'); pick or sum over outputs "
            "within a query."
        )
    if not values.requires_grad:
        raise InputError(
            f"measurement {name!r} does not depend on the outputs differentiably (an argmax, a comparison, "
            ".item()?); "
            "influence needs its gradient"
        )
    if not bool(torch.isfinite(values).all()):
        bad = indices[int((~torch.isfinite(values)).nonzero()[0, 0])]
        raise NonFiniteError(f"measurement {name!r} is NaN or infinite for query {bad}")
    return values.detach()


def _class_logit(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.ndim != 2 or targets.ndim != 1:
        raise UnsupportedError(
            "a margin or logit needs outputs (b, classes) and class indices (b,); found "
            f"{tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}. Pass a function of (outputs, targets)."
        )
    if bool((targets < 0).any()) or bool((targets >= outputs.shape[1]).any()):
        raise InputError(
            "a margin or logit needs a class for every query; some target is ignored or out of range"
        )
    return outputs.gather(1, targets[:, None])[:, 0]


def _class_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    correct = _class_logit(outputs, targets)
    own = torch.nn.functional.one_hot(targets, outputs.shape[1]).bool()
    return correct - outputs.masked_fill(own, -torch.inf).logsumexp(1)


def _signed_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    return (
        (outputs.reshape(targets.shape) * targets).flatten(1).sum(1)
        if targets.ndim > 1
        else outputs.reshape(-1) * targets
    )


def _binary_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    flat = outputs.reshape(outputs.shape[0], -1)
    if flat.shape[1] != 1:
        raise UnsupportedError(
            f"a margin needs one output per example; found {flat.shape[1]}. Pass a function instead."
        )
    return flat[:, 0] * (2 * targets.reshape(-1) - 1)
