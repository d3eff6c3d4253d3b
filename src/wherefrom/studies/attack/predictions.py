"""Predicted classes: what an attack tries to flip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wherefrom.errors import NonFiniteError, UnsupportedError
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, Loss, SmoothHinge
from wherefrom.task import Examples, Objective


def classes_of(loss: Loss, outputs: Tensor) -> Int[Tensor, " b"]:
    """The class of largest score, or for a single score 1 above zero and otherwise 0 (−1 for labels ±1).

    Raises:
        UnsupportedError: the loss or the outputs have no classes to flip.
    """
    if isinstance(loss, CrossEntropy) and outputs.ndim == 2:
        return outputs.argmax(1)
    if isinstance(loss, (BinaryCrossEntropy, Logistic, SmoothHinge)):
        flat = outputs.reshape(outputs.shape[0], -1)
        if flat.shape[1] == 1:
            negative = 0 if isinstance(loss, BinaryCrossEntropy) else -1
            return torch.where(flat[:, 0] > 0, 1, negative)
    raise UnsupportedError(
        f"an attack counts flipped classes, and loss {loss.name!r} with outputs of shape "
        f"{tuple(outputs.shape)} predicts no single class per example. Expected cross-entropy with outputs "
        "(b, classes), or a binary loss with one output per example"
    )


def outputs_on(
    objective: Objective, examples: Examples, values: Mapping[str, Tensor] | None = None
) -> Float[Tensor, "b ..."]:
    """Outputs at `θ̂`, or with `values` for all parameters and buffers: a retrained model's.

    Raises:
        NonFiniteError: a retrained model's outputs are not finite.
    """
    passes = objective.passes(examples, values, everything=values is not None)
    outputs = torch.cat([outputs for _, outputs, _ in passes])
    if not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError("a retrained model gives NaN or infinity: its training diverged")
    return outputs


def named_values(objective: Objective, model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a retrained model, in the dtype of the computation."""
    return {
        name: tensor.detach().to(
            objective.device, objective.dtype if tensor.is_floating_point() else tensor.dtype
        )
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }


def correct(predicted: Int[Tensor, " b"], targets: Any) -> Tensor | None:
    """Which predictions equal the labels, where the targets are class labels; else `None`."""
    if not isinstance(targets, Tensor) or targets.numel() != predicted.numel():
        return None
    return predicted == targets.reshape(-1).round().to(predicted.dtype)
