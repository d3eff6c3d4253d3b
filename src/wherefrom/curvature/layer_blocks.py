"""The diagonal blocks of a Gauss-Newton matrix, one for each layer: as matrices, or as their factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.gradients import LayerGradients
from wherefrom.progress import progress_bar


def roots_each(operator: GaussNewtonOperator, layers: LayerGradients) -> int:
    """Gradients that an example contributes to the matrix: the roots of its output curvature."""
    return operator.roots.each


def layer_matrices(
    operator: GaussNewtonOperator, layers: LayerGradients, chosen: Sequence[int]
) -> list[Tensor]:
    """`(1/n) Σ_ir v_ir v_irᵀ` of the chosen blocks, `(m, m)` each, with `v_ir` the gradient of root `r` of
    example `i`; in float64, row-major in `(g, o, i)`.

    Cost: `2 n r m²` operations and `8 m²` bytes a block, in one pass.
    """
    device = operator.device
    sizes = [layers.blocks[position].size for position in chosen]
    totals = [torch.zeros(m, m, dtype=torch.float64, device=device) for m in sizes]
    for rows in _rows(operator, layers, chosen):
        for total, part in zip(totals, rows):
            wide = part.double()
            total.addmm_(wide.T, wide)
    return [total.div_(layers.objective.n) for total in totals]


def layer_factors(
    operator: GaussNewtonOperator, layers: LayerGradients, chosen: Sequence[int]
) -> list[Tensor]:
    """The rows `v_irᵀ / √n` of the chosen blocks, `(c, m)` each, in float64, those that vanish left out: the
    block is the sum of their outer products.

    Cost: `8 n r m` bytes a block, in one pass.
    """
    parts: list[list[Tensor]] = [[] for _ in chosen]
    for rows in _rows(operator, layers, chosen):
        for kept, part in zip(parts, rows):
            kept.append(part[(part != 0).any(dim=1)].double())
    return [torch.cat(kept) / layers.objective.n**0.5 for kept in parts]


def _rows(
    operator: GaussNewtonOperator, layers: LayerGradients, chosen: Sequence[int]
) -> Iterator[list[Tensor]]:
    if not chosen:
        return
    examples = layers.objective.examples
    roots = roots_each(operator, layers)
    widest = max(layers.blocks[position].size for position in chosen)
    numbers = operator.engine.work_bytes // operator.dtype.itemsize
    together = min(roots, layers.roots_together(), max(1, numbers // (3 * widest)))
    held = 3 * together * widest + operator.metric.held_each(operator.roots.first)
    with progress_bar("blocks of the curvature", len(examples)) as bar:
        for where, capture in layers.captures(examples, cotangents=together, numbers_each=held):
            for part in operator.roots.parts(capture, where, together):
                forms = capture.gradients(part[1])
                yield [forms[position].rows().flatten(0, 1) for position in chosen]
            bar.advance(where.stop - where.start)
