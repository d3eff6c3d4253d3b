"""Linearisation of any `nn.Module` by autograd, its graphs kept so that repeated products cost no forward
pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import tree_flatten, tree_map

from wherefrom.gradients.forward_products import (
    ForwardProduct,
    TransposedProduct,
    forward_mode_product,
    product_by_rows,
)
from wherefrom.gradients.linearisation import Linearisation
from wherefrom.task import Objective, differentiable_attention


class AutogradLinearisation(Linearisation):
    """Reverse mode for `Jᵀu` on kept graphs, and one of `ForwardProduct` for `J v`.

    Cost of `k` products: about `2k` forward passes; memory: the activations of the batch, plus `k` copies
    while a product runs. Explicit rows cost a backward pass for each output of an example instead.
    """

    def __init__(
        self,
        objective: Objective,
        batch: Any,
        *,
        each: Callable[[Any, Tensor], list[Tensor]],
        forward: ForwardProduct = "transposed",
    ):
        self._objective = objective
        self._parameters = objective.parameters
        self._batch = batch
        self._each = each
        self._forward = forward
        leaves = {
            name: value.detach().requires_grad_() for name, value in objective.parameters.values.items()
        }
        self._leaves = list(leaves.values())
        with torch.enable_grad(), differentiable_attention():
            self._graph_outputs = objective.outputs(leaves, batch)
        self.outputs = self._graph_outputs.detach()
        self.targets = objective.targets(batch)
        self._transposed: TransposedProduct | None = None

    def jvp(self, vectors: Float[Tensor, "p k"]) -> Tensor:
        if self._forward == "forward mode":
            return forward_mode_product(self._objective, self._batch, vectors)
        if self._forward == "explicit rows":
            return product_by_rows(self, vectors)
        if self._transposed is None:
            self._transposed = TransposedProduct(self._parameters, self._leaves, self._graph_outputs)
        return self._transposed(vectors)

    def vjp(self, cotangents: Tensor) -> Float[Tensor, "p k"]:
        with differentiable_attention():
            return self._parameters.batched_gradient(self._graph_outputs, self._leaves, cotangents).T

    def vjp_each_parts(self, cotangents: Tensor) -> list[Tensor]:
        return self._each(self._batch, cotangents)


def vmapped_vjp_each(
    objective: Objective, names: Sequence[str] | None = None
) -> Callable[[Any, Tensor], list[Tensor]]:
    """Per-example pull-backs to the parameters `names` (all by default) with `torch.vmap` over the examples:
    one pass for the whole batch."""
    names = objective.parameters.names if names is None else list(names)
    every = {name: value.detach() for name, value in objective.parameters.values.items()}
    values = {name: every[name] for name in names}

    def pull_one(example: Any, cotangents: Tensor) -> list[Tensor]:
        batch_of_one = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, example)
        pull = vjp(lambda at: objective.outputs({**every, **at}, batch_of_one)[0], values)[1]
        (parts,) = vmap(pull)(cotangents)
        return [parts[name].reshape(cotangents.shape[0], -1) for name in names]

    def pull(batch: Any, cotangents: Tensor) -> list[Tensor]:
        axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, batch)
        with differentiable_attention():
            return [part.detach() for part in vmap(pull_one, in_dims=(axes, 1))(batch, cotangents)]

    return pull


def looped_vjp_each(
    objective: Objective, names: Sequence[str] | None = None
) -> Callable[[Any, Tensor], list[Tensor]]:
    """Per-example pull-backs by one backward pass per example: for models that `torch.vmap` cannot trace."""
    names = objective.parameters.names if names is None else list(names)
    every = {name: value.detach() for name, value in objective.parameters.values.items()}
    leaves = {name: every[name].requires_grad_() for name in names}

    def pull(batch: Any, cotangents: Tensor) -> list[Tensor]:
        with torch.enable_grad(), differentiable_attention():
            outputs = objective.outputs({**every, **leaves}, batch)
            if not outputs.requires_grad:  # nothing in this batch depends on these parameters
                b, k = outputs.shape[0], cotangents.shape[0]
                return [leaf.new_zeros(b, k, leaf.numel()) for leaf in leaves.values()]
            rows: list[tuple[Tensor, ...]] = []
            for i in range(outputs.shape[0]):
                for u in cotangents[:, i]:
                    parts = torch.autograd.grad(
                        outputs[i], list(leaves.values()), u, retain_graph=True, materialize_grads=True
                    )
                    rows.append(parts)
        return [torch.stack(part).reshape(outputs.shape[0], cotangents.shape[0], -1) for part in zip(*rows)]

    return pull


def vmap_failure(objective: Objective) -> str | None:
    """Why per-example gradients cannot be taken with `torch.vmap` on this model; `None` if they can."""
    batch = objective.examples.batch(objective.examples.spread(2))
    if not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in tree_flatten(batch)[0]):
        return "batches hold something other than tensors with a first dimension of examples"
    with torch.no_grad():
        outputs = objective.outputs(objective.parameters.values, batch)
    cotangents = torch.ones_like(outputs)[None]
    try:
        mapped = vmapped_vjp_each(objective)(batch, cotangents)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    # A tensor that all examples share can pass for one row per example when it has as many rows as the probe.
    tolerance = torch.finfo(objective.dtype).eps ** 0.5
    for part, other in zip(mapped, looped_vjp_each(objective)(batch, cotangents)):
        if part.shape != other.shape or not bool(
            (part - other).norm() <= tolerance * (part.norm() + other.norm())
        ):
            return "torch.vmap gives other gradients than single examples do"
    return None
