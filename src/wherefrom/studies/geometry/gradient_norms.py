"""Norms of per-example gradients in the input and in the parameters, whole and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.influence import Attributor, Measurement
from wherefrom.progress import progress_bar
from wherefrom.studies.geometry.evaluation import InputGraph, checked, norms
from wherefrom.studies.geometry.scalars import Scalar, resolve_scalar
from wherefrom.task import Examples, Objective


@dataclass(frozen=True)
class GradientNorms:
    """Norms of the gradients of one scalar function `f` of the outputs, in float64 on the CPU.

    Attributes:
        inputs: `‖∇_x f‖`, in units of `f` per unit of input.
        parameters: `‖∇_θ f‖` over all studied parameters.
        layers: `‖∇_{θ_l} f‖` of every block of parameters, by its name; their squares add up to those of
            `parameters`.
        scalar: name of `f`.
    """

    inputs: Float[Tensor, " n"]
    parameters: Float[Tensor, " n"]
    layers: dict[str, Float[Tensor, " n"]]
    scalar: str

    @property
    def ratio(self) -> Float[Tensor, " n"]:
        """`‖∇_x f‖ / ‖∇_θ f‖`; `nan` where both vanish."""
        return self.inputs / self.parameters


def gradient_norms(
    of: Objective | Attributor, examples: Any = None, scalar: Scalar = "margin"
) -> GradientNorms:
    """`‖∇_x f‖` and `‖∇_θ f‖` for every example, the latter from factored gradients.

    Args:
        of: an attributor, or an objective: model, loss and studied parameters.
        examples: read as the training set is, or `Examples`; the training set if `None`.
        scalar: see `resolve_scalar`.

    Raises:
        InputError: a scalar that gives not one differentiable number per example; dropout or batch
            normalisation in training mode; examples that cannot be read.
        UnsupportedError: the outputs depend on no floating-point input, or on several.
    """
    objective, read = checked(of, examples)
    measure = resolve_scalar(scalar, objective.loss)
    layers = LayerGradients(GradientEngine(objective), strict=False)
    inputs, blocks = [], []
    with progress_bar("gradient norms", len(read)) as bar:
        for where in slices(len(read), layers.batch_size()):
            graph = InputGraph(objective, read.batch(where))
            inputs.append(norms(graph.gradients(measure)))
            blocks.append(squared_block_norms(layers, read, where, measure))
            bar.advance(where.stop - where.start)
    squares = torch.cat(blocks, dim=1)
    return GradientNorms(
        inputs=torch.cat(inputs),
        parameters=squares.sum(0).sqrt(),
        layers={block.name: row.sqrt() for block, row in zip(layers.blocks, squares)},
        scalar=measure.name,
    )


def squared_block_norms(
    layers: LayerGradients, examples: Examples, where: slice, measure: Measurement
) -> Float[Tensor, "k b"]:
    """`‖∇_{θ_l} f‖²` per block and example, float64 on the CPU."""
    capture = layers.capture(examples, where)
    forms = capture.gradients(capture.output_gradient(measure.function)[None])
    return torch.stack([form.squared_norms()[0].double().cpu() for form in forms])


def slices(n: int, size: int) -> Iterator[slice]:
    """Consecutive parts of `n` examples."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
