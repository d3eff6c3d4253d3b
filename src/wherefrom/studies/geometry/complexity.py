"""Geometric complexity: how strongly the outputs vary over the inputs, on average over the examples."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.gradients import GradientEngine
from wherefrom.influence import Attributor
from wherefrom.linalg.estimates import Estimate
from wherefrom.progress import progress_bar
from wherefrom.studies.geometry.evaluation import InputGraph, checked, graphs
from wherefrom.studies.geometry.gradient_norms import slices
from wherefrom.task import Objective


def geometric_complexity(
    of: Objective | Attributor, examples: Any = None, *, probes: int | None = None, seed: int = 0
) -> Estimate:
    """`(1/n) Σ_i ‖∂f/∂x (x_i)‖_F²` of the outputs `f` (Dherin et al. 2022), the Dirichlet energy on a sample.

    Exactly, by a backward pass per output; or, as `E ‖Jᵀu‖² = ‖J‖_F²` for random signs `u`, by `probes`
    backward passes however many outputs there are. It works for any network, and knows nothing of the loss:
    for class scores `f` are the logits. Units: of the outputs per unit of input, squared.

    Args:
        of: an attributor, or an objective: model.
        examples: read as the training set is, or `Examples`; the training set if `None`.
        probes: sign vectors per example; all outputs, exactly, if `None`.
        seed: of the probes.

    Returns:
        The estimate; `products` counts backward passes per example. Its standard error is that over the
        probes, the examples as they are: from the spread of each example's own probes; with one probe per
        example from the spread over the examples, which is larger in expectation (`nan` for one example).

    Raises:
        InputError: `probes` below 1; dropout or batch normalisation in training mode; unreadable examples.
        UnsupportedError: the outputs depend on no floating-point input, or on several.
    """
    if probes is not None:
        whole("probes", probes, 1, expected="a whole number of at least 1, or None for the exact value")
    objective, read = checked(of, examples)
    engine = GradientEngine(objective)
    engine.check_derivatives()
    size = engine.batch_size
    generator = torch.Generator().manual_seed(seed)
    found, products = [], 0
    with progress_bar("geometric complexity", len(read)) as bar:
        for where in slices(len(read), size):
            graph = InputGraph(objective, read.batch(where))
            outputs = graph.outputs[0].numel()
            products = outputs if probes is None else probes
            rows = []
            for number in range(products):
                cotangent = graph.outputs.new_zeros(graph.count, outputs)
                if probes is None:
                    cotangent[:, number] = 1
                else:
                    signs = torch.randint(2, cotangent.shape, generator=generator, dtype=torch.int8)
                    cotangent.copy_(2 * signs - 1)
                rows.append(_squares(graph, cotangent))
            found.append(torch.stack(rows))
            bar.advance(where.stop - where.start)
    if probes is None:
        value = torch.cat([rows.sum(0) for rows in found]).mean()
        return Estimate(float(value), 0.0, products)
    drawn = torch.cat(found, dim=1)
    return Estimate(float(drawn.mean()), _standard_error(drawn), products)


def _squares(graph: InputGraph, cotangent: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """`‖J_iᵀu_i‖²`, float64 on the CPU."""
    with graphs():
        (made,) = torch.autograd.grad(
            graph.outputs, graph.inputs, cotangent.reshape(graph.outputs.shape), retain_graph=True
        )
    return made.double().flatten(1).square().sum(1).cpu()


def _standard_error(drawn: Float[Tensor, "k n"]) -> float:
    probes, n = drawn.shape
    if probes > 1:
        return float((drawn.var(0).sum() / probes).sqrt()) / n
    return float(drawn[0].std()) / math.sqrt(n) if n > 1 else math.nan
