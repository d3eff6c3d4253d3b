"""Projected per-example gradients of a whole set, kept: `k` numbers an example instead of `p`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import NonFiniteError, OutOfMemoryError
from wherefrom.gradients.engine import GradientEngine
from wherefrom.gradients.layer_gradients import LayerGradients
from wherefrom.gradients.per_example import ExampleGradients
from wherefrom.gradients.projections import (
    BoundLoGra,
    BoundProjection,
    Distortion,
    LayerProjection,
    LoGra,
    MatrixBlock,
    Projection,
    measure_distortion,
)
from wherefrom.layers import GradientForm, OuterProducts, TokenOuterProducts
from wherefrom.memory import available_memory, memory_errors
from wherefrom.progress import progress_bar
from wherefrom.task import Examples, Measure

# Gradients on which the distortion is measured, and the share of the budget they may take.
_SAMPLE = 64
_SAMPLE_SHARE = 0.1


@dataclass(frozen=True)
class ProjectedGradients:
    """`P g_i` for every example of a set.

    Attributes:
        values: one row per example.
        projection: `P`, bound to the parameters.
        distortion: measured on a sample of the set; `None` where fewer than two of it are not zero.
    """

    values: Float[Tensor, "n k"]
    projection: BoundProjection
    distortion: Distortion | None


def project_gradients(
    source: GradientEngine | LayerGradients,
    examples: Examples,
    measure: Measure,
    projection: Projection,
    *,
    progress: bool = True,
) -> ProjectedGradients:
    """Project the gradients of a measurement, in one pass over the examples.

    LoGra never forms the gradients: each layer's activations and gradients are projected apart. For the other
    projections they are made explicitly, a batch at a time.

    Args:
        source: of the objective; `LayerGradients` spare LoGra proving the layer rules again.
        examples: training examples or queries.
        measure: one number per example from outputs and targets; the loss is the usual one.
        projection: settings; the same ones give training examples and queries the same map.
        progress: show a bar.

    Raises:
        InputError: ranks of LoGra that do not fit a layer.
        NonFiniteError: a gradient holds NaN or infinity.
        OutOfMemoryError: the `n × k` values do not fit.
    """
    engine = source if isinstance(source, GradientEngine) else source.engine
    objective = engine.objective
    gradients = ExampleGradients(engine, examples, measure)
    if isinstance(projection, LoGra):
        layers = source if isinstance(source, LayerGradients) else LayerGradients(engine)
        layered = projection.bind([MatrixBlock(block.name, block.index) for block in layers.blocks])
        bound: BoundProjection = layered
        parts = _factored(layers, examples, measure, layered)
    else:
        bound = projection.bind(objective.parameters)
        parts = _explicit(gradients, bound)
    n, needed = len(examples), len(examples) * bound.k * objective.dtype.itemsize
    if needed > 0.9 * available_memory(objective.device):
        raise OutOfMemoryError(
            f"{n:,} projected gradients of {bound.k:,} numbers need {needed / 1e9:.1f} GB, more than is "
            "free. Project to fewer dimensions, or fewer examples at a time."
        )
    remedy = "Lower memory=, or project to fewer dimensions."
    with (
        memory_errors("projecting gradients", remedy),
        progress_bar("projecting", n, enabled=progress) as bar,
    ):
        values = torch.empty(n, bound.k, dtype=objective.dtype, device=objective.device)
        for where, projected in parts:
            _check_finite(projected, where, examples.role)
            values[where] = projected
            bar.advance(where.stop - where.start)
        return ProjectedGradients(values, bound, _distortion(gradients, values, bound))


def _explicit(gradients: ExampleGradients, bound: BoundProjection) -> Iterator[tuple[slice, Tensor]]:
    size = gradients.engine.rows_per_batch()
    for start in range(0, len(gradients), size):
        where = slice(start, min(start + size, len(gradients)))
        yield where, bound.apply(gradients.rows(where))


def _factored(
    layers: LayerGradients, examples: Examples, measure: Measure, bound: BoundLoGra
) -> Iterator[tuple[slice, Tensor]]:
    for where, capture in layers.captures(examples, numbers_each=bound.k):
        forms = capture.gradients(capture.output_gradient(measure)[None])
        yield where, torch.cat([_project(layer, form) for layer, form in zip(bound.layers, forms)], dim=1)


def _project(layer: LayerProjection, form: GradientForm) -> Float[Tensor, "b k"]:
    """One block's gradients in the cheapest form they have."""
    if isinstance(form, OuterProducts):
        return layer.project_factored(form.activations, form.gradients)[0]
    if isinstance(form, TokenOuterProducts):
        return layer.project_tokens(form.tokens, form.gradients)[0]
    return layer.project(form.rows()[0].reshape(form.b, *form.shape))


def _check_finite(projected: Float[Tensor, "b k"], where: slice, role: str) -> None:
    bad = (~torch.isfinite(projected)).any(1).nonzero()
    if len(bad):
        raise NonFiniteError(
            f"{role}: the gradient of example {where.start + int(bad[0])} holds NaN or infinity: the "
            "measurement is not differentiable there, or the model's outputs overflow. Leave it out, or use "
            "dtype=torch.float64."
        )


def _distortion(
    gradients: ExampleGradients, values: Float[Tensor, "n k"], bound: BoundProjection
) -> Distortion | None:
    objective = gradients.engine.objective
    fit = int(objective.memory * _SAMPLE_SHARE // (bound.p * objective.dtype.itemsize))
    index = torch.tensor(gradients.examples.spread(max(2, min(_SAMPLE, fit))), device=objective.device)
    rows = torch.cat([gradients.rows(part) for part in index.split(gradients.engine.rows_per_batch())])
    if int((rows != 0).any(1).sum()) < 2:
        return None
    return measure_distortion(rows, values[index], bound)
