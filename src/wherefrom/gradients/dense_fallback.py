"""Explicit per-example gradients of the parameters that no layer rule serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients.autograd import vmapped_vjp_each
from wherefrom.task import Objective, differentiable_attention


class DenseFallback:
    """One pull-back through the whole model for all of these parameters.

    Args:
        objective: model and parameters.
        names: of the parameters.
        vmap: whether `torch.vmap` can trace the model; one backward pass per example otherwise.
    """

    def __init__(self, objective: Objective, names: Sequence[str], *, vmap: bool):
        self.names = list(names)
        self._objective = objective
        self._mapped = vmapped_vjp_each(objective, self.names) if vmap else None

    def rows(self, batch: Any, cotangents: Tensor) -> dict[str, Float[Tensor, "k b n"]]:
        """Gradients by parameter, for cotangents of shape `(k, b, …)`."""
        with unfused_layers(), differentiable_attention():
            if self._mapped is None:
                return self._one_by_one(batch, cotangents)
            parts = self._mapped(batch, cotangents)
        return {name: part.transpose(0, 1) for name, part in zip(self.names, parts)}

    def _one_by_one(self, batch: Any, cotangents: Tensor) -> dict[str, Tensor]:
        k, b = cotangents.shape[:2]
        values = {name: value.detach() for name, value in self._objective.parameters.values.items()}
        leaves = {name: values[name].requires_grad_() for name in self.names}
        with torch.enable_grad():
            outputs = self._objective.outputs({**values, **leaves}, batch)
        made = {name: leaf.new_zeros(k, b, leaf.numel()) for name, leaf in leaves.items()}
        if not outputs.requires_grad:  # this batch does not touch them
            return made
        for example in range(b):
            for root, cotangent in enumerate(cotangents[:, example]):
                parts = torch.autograd.grad(
                    outputs[example],
                    list(leaves.values()),
                    cotangent,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for rows, part in zip(made.values(), parts):
                    rows[root, example] = part.reshape(-1)
        return made


@contextmanager
def unfused_layers() -> Iterator[None]:
    """Transformer layers call their submodules one by one, instead of a fused kernel for inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
