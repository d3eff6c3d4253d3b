"""Hessian-vector products of the summed loss on one batch, by either order of differentiation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.forward_products import map_rows
from wherefrom.task import Objective, differentiable_attention

HvpMode = Literal["reverse_over_reverse", "forward_over_reverse"]
HVP_MODES: tuple[HvpMode, ...] = ("reverse_over_reverse", "forward_over_reverse")
HessianProduct = Callable[[Tensor], Tensor]


def hessian_product(objective: Objective, batch: Any, mode: HvpMode) -> HessianProduct:
    """`V ↦ (Σ_b ∇²ℓ_i) V` on the batch, for `(p, k)` columns. Reverse-over-reverse keeps its graph between
    calls."""
    if mode == "reverse_over_reverse":
        return _reverse_over_reverse(objective, batch)
    return _forward_over_reverse(objective, batch)


def _reverse_over_reverse(objective: Objective, batch: Any) -> HessianProduct:
    parameters = objective.parameters
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.values.items()}
    ordered = list(leaves.values())
    with torch.enable_grad(), differentiable_attention():
        total = objective.losses(leaves, batch).sum()
        first = torch.autograd.grad(total, ordered, create_graph=True, materialize_grads=True)

    def product(vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        rows = parameters.unflatten_rows(vectors.T)
        live = [(part, row) for part, row in zip(first, rows) if part.requires_grad]
        if not live:
            return torch.zeros_like(vectors)
        with differentiable_attention():
            return parameters.batched_gradient(
                [part for part, _ in live], ordered, [row for _, row in live]
            ).T

    return product


def _forward_over_reverse(objective: Objective, batch: Any) -> HessianProduct:
    parameters = objective.parameters

    def total(values: dict[str, Tensor]) -> Tensor:
        return objective.losses(values, batch).sum()

    def product(vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        rows = dict(zip(parameters.names, parameters.unflatten_rows(vectors.T)))
        with differentiable_attention():
            tangents = map_rows(lambda row: jvp(grad(total), (parameters.values,), (row,))[1], rows)
        return parameters.flatten_rows([tangents[name].detach() for name in parameters.names]).T

    return product


def fastest_hvp_mode(objective: Objective, batch: Any, columns: int) -> tuple[HvpMode, dict[str, float]]:
    """Time both modes once on this model and batch (after a warm-up); modes the model cannot run are left
    out.

    Returns:
        The faster mode, and the seconds per product of each that ran. The choice changes results only by
        rounding.
    """
    vectors = torch.ones(objective.p, columns, dtype=objective.dtype, device=objective.device)
    seconds: dict[str, float] = {}
    failures: list[Exception] = []
    for mode in HVP_MODES:
        try:
            product = hessian_product(objective, batch, mode)
            product(vectors)
            _synchronise(objective.device)
            start = time.perf_counter()
            product(vectors)
            _synchronise(objective.device)
            seconds[mode] = time.perf_counter() - start
        except RuntimeError as error:
            failures.append(error)
    if not seconds:
        raise UnsupportedError(
            "the Hessian of this model cannot be computed: neither order of differentiation works ("
            + "; ".join(str(failure).splitlines()[0] for failure in failures)
            + "). Use curvature='ggn'."
        ) from failures[0]
    return min(HVP_MODES, key=lambda mode: seconds.get(mode, float("inf"))), seconds


def _synchronise(device: torch.device) -> None:
    """Wait for kernels still running, so that a clock sees them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
