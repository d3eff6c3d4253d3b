"""The Hessian of the mean loss as an operator."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.gradients import (
    GradientEngine,
    HvpMode,
    fastest_hvp_mode,
    hessian_product,
    right_hvp_modes,
)
from wherefrom.gradients.hvp import HessianProduct
from wherefrom.linalg import LinearOperator
from wherefrom.task import sum_over_batches

# A measurement on more examples than this says nothing new about which mode is faster.
_TIMED_EXAMPLES = 32
_TIMED_COLUMNS = 4
_KEEP_SHARE = 0.4


class HessianOperator(LinearOperator):
    """`(1/n) Σ ∇²ℓ_i`: indefinite in general, away from a minimum above all.

    Args:
        engine: of the objective.
        mode: `"reverse_over_reverse"` (its graph is kept between products when it fits),
            `"forward_over_reverse"`, or `"auto"`: both timed once on this model. Fix the mode where results
            must repeat to the bit.

    Raises:
        UnsupportedError: an operation of the model has no second derivative, or a wrong one.
    """

    def __init__(self, engine: GradientEngine, mode: HvpMode | Literal["auto"] = "auto"):
        objective = engine.objective
        super().__init__(objective.p, objective.dtype, objective.device, -math.inf)
        self.engine = engine
        self.n_examples = objective.n
        modes = right_hvp_modes(engine.probe, mode)
        if len(modes) > 1:
            batch = objective.examples.batch(range(min(_TIMED_EXAMPLES, objective.n)))
            modes = [fastest_hvp_mode(objective, batch, min(_TIMED_COLUMNS, objective.p))[0]]
        self.mode: HvpMode = modes[0]
        self._products: list[HessianProduct] | None = None

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        if vectors.shape[1] > self.engine.columns:
            return torch.cat([self.matmat(part) for part in vectors.split(self.engine.columns, dim=1)], dim=1)
        total = sum_over_batches(product(vectors) for product in self._passes())
        return total.div_(self.engine.objective.n)

    def product_operations(self) -> float:
        return self.engine.product_operations(1)

    def dense_operations(self) -> float:
        return self.engine.product_operations(self.size)

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        return _MinibatchHessian(self, indices)

    def _passes(self):
        if self._products is not None:
            yield from self._products
            return
        objective, engine = self.engine.objective, self.engine
        keep = engine.graph_bytes() <= objective.memory * _KEEP_SHARE
        kept = []
        for _, batch in objective.examples.batches(engine.batch_size):
            product = hessian_product(objective, batch, self.mode)
            if keep:
                kept.append(product)
            yield product
        if keep:
            self._products = kept


class _MinibatchHessian(LinearOperator):
    """The same matrix averaged over a few examples."""

    def __init__(self, full: HessianOperator, indices: Int[Tensor, " b"]):
        super().__init__(full.size, full.dtype, full.device, full.lower_bound)
        objective = full.engine.objective
        self._product = hessian_product(objective, objective.examples.batch(indices), full.mode)
        self._count = len(indices)
        self.n_examples = self._count

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return self._product(vectors) / self._count
