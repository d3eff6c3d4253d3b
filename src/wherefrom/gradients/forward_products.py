"""Three ways to `J v`: none of them works for every operation, and all give the same where they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vmap

from wherefrom.gradients.linearisation import Linearisation
from wherefrom.memory import is_allocation_failure
from wherefrom.task import Objective, ParameterSet, batched_backward, differentiable_attention

# In order of preference. The first needs a second derivative of every operation, the second a rule for
# forward mode, the third first derivatives only; it takes a backward pass for each output of an example.
ForwardProduct = Literal["transposed", "forward mode", "explicit rows"]
FORWARD_PRODUCTS: tuple[ForwardProduct, ...] = ("transposed", "forward mode", "explicit rows")
# Bytes of explicit rows held at once.
_ROWS = 32 * 2**20


class TransposedProduct:
    """`J v = ∂(Jᵀu)ᵀv/∂u` on a kept graph: a second backward pass, which costs about what forward mode costs.

    Args:
        parameters: their order and shapes.
        leaves: one for each.
        outputs: with their graph, which stays.
    """

    def __init__(self, parameters: ParameterSet, leaves: list[Tensor], outputs: Tensor):
        self._parameters = parameters
        self._shape = outputs.shape
        self._probe = torch.zeros_like(outputs, requires_grad=True)
        with torch.enable_grad(), differentiable_attention():
            self._pulled = torch.autograd.grad(
                outputs, leaves, self._probe, create_graph=True, materialize_grads=True
            )

    def __call__(self, vectors: Float[Tensor, "p k"]) -> Tensor:
        """`(k, *outputs.shape)`."""
        rows = self._parameters.unflatten_rows(vectors.T)
        # A parameter that the outputs do not depend on contributes nothing and has no graph.
        live = [(part, row) for part, row in zip(self._pulled, rows) if part.requires_grad]
        tangents = None
        if live:
            with differentiable_attention():
                (tangents,) = batched_backward(
                    [part for part, _ in live], [self._probe], [row for _, row in live]
                )
        return vectors.new_zeros(vectors.shape[1], *self._shape) if tangents is None else tangents


def forward_mode_product(objective: Objective, batch: Any, vectors: Float[Tensor, "p k"]) -> Tensor:
    """`J v` by forward-mode differentiation: a forward pass of its own for every call."""
    parameters = objective.parameters
    rows = dict(zip(parameters.names, parameters.unflatten_rows(vectors.T)))

    def tangent(row: dict[str, Tensor]) -> Tensor:
        return jvp(lambda values: objective.outputs(values, batch), (parameters.values,), (row,))[1]

    with differentiable_attention():
        return map_rows(tangent, rows).detach()


def product_by_rows(at: Linearisation, vectors: Float[Tensor, "p k"]) -> Tensor:
    """`J v` from the rows of `J`, a few outputs of every example at a time."""
    outputs = at.outputs
    b, each = outputs.shape[0], outputs[0].numel()
    together = max(1, _ROWS // max(1, b * vectors.shape[0] * vectors.element_size()))
    columns = []
    for places in torch.arange(each, device=outputs.device).split(together):
        units = torch.zeros(len(places), each, dtype=outputs.dtype, device=outputs.device)
        units[torch.arange(len(places)), places] = 1
        cotangents = units[:, None].expand(-1, b, -1).reshape(len(places), *outputs.shape)
        parts = at.vjp_each_parts(cotangents.contiguous())  # (b, r, p_j) each
        pieces = vectors.split([part.shape[2] for part in parts])
        columns.append(sum(part @ piece.to(part) for part, piece in zip(parts, pieces)))
    return torch.cat(columns, dim=1).permute(2, 0, 1).reshape(vectors.shape[1], *outputs.shape)


def map_rows(function: Callable[[dict[str, Tensor]], Any], rows: dict[str, Tensor]) -> Any:
    """`function` of every row, stacked: of all at once, or one by one where an operation cannot be
    batched."""
    try:
        return vmap(function)(rows)
    except RuntimeError as error:
        if is_allocation_failure(error):
            raise
    k = len(next(iter(rows.values())))
    made = [function({name: part[j] for name, part in rows.items()}) for j in range(k)]
    if isinstance(made[0], Tensor):
        return torch.stack(made)
    return {name: torch.stack([one[name] for one in made]) for name in made[0]}
