"""The model's outputs on one batch, linearised at `θ̂`: products with the Jacobian `J` from both sides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.losses import Loss
from wherefrom.task import Measure


class Evaluated:
    """The model on a batch of `b` examples.

    Attributes:
        outputs: `f`, shape `(b, …)`, detached.
        targets: the batch's targets, as the loss takes them.
    """

    outputs: Tensor
    targets: Any

    def output_gradient(self, measure: Measure) -> Tensor:
        """`∇_f m` of a measurement that gives one number per example, shaped like the outputs; a loss has it
        in closed form where autograd would cancel digits."""
        if isinstance(measure, Loss):
            return measure.output_gradient(self.outputs, self.targets)
        leaf = self.outputs.detach().requires_grad_()
        with torch.enable_grad():
            (made,) = torch.autograd.grad(measure(leaf, self.targets).sum(), leaf)
        return made


class Linearisation(Evaluated, ABC):
    """`f(θ̂ + v) ≈ f + J v` on a batch of `b` examples."""

    @abstractmethod
    def jvp(self, vectors: Float[Tensor, "p k"]) -> Tensor:
        """`J v` for `k` columns, shape `(k, *outputs.shape)`."""

    @abstractmethod
    def vjp(self, cotangents: Tensor) -> Float[Tensor, "p k"]:
        """`Jᵀ u` summed over the batch, for cotangents of shape `(k, *outputs.shape)`."""

    @abstractmethod
    def vjp_each_parts(self, cotangents: Tensor) -> list[Tensor]:
        """`J_iᵀ u_i` for every example apart, one `(b, k, p_j)` tensor per parameter: with `u = ∇_f ℓ` and
        `k = 1`, the per-example gradients. Parts spare the copy into one vector where they are only
        multiplied with something."""

    def vjp_each(self, cotangents: Tensor) -> Float[Tensor, "b k p"]:
        """The parts of `vjp_each_parts` as vectors."""
        return torch.cat(self.vjp_each_parts(cotangents), dim=2)
