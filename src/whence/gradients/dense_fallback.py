"""Explicit per-example gradients of the parameters that no layer rule serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from whence.gradients.autograd import looped_vjp_each, vmapped_vjp_each
from whence.task import Objective


class DenseFallback:
    """One pull-back through the whole model for all of these parameters.

    Args:
        objective: model and parameters.
        names: of the parameters.
        vmap: whether `torch.vmap` can trace the model; one backward pass per example otherwise.
    """

    def __init__(self, objective: Objective, names: Sequence[str], *, vmap: bool):
        self.names = list(names)
        self._each = (vmapped_vjp_each if vmap else looped_vjp_each)(objective, self.names)

    def rows(self, batch: Any, cotangents: Tensor) -> dict[str, Float[Tensor, "k b n"]]:
        """Gradients by parameter, for cotangents of shape `(k, b, …)`."""
        parts = self._each(batch, cotangents)
        return {name: part.transpose(0, 1) for name, part in zip(self.names, parts)}
