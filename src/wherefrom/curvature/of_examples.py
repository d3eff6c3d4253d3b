"""The curvature that some examples, of the training set or not, bring into a sum: what an intervention adds
to `C` or takes away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.hessian import HessianOperator
from wherefrom.errors import UnsupportedError
from wherefrom.gradients import hessian_product
from wherefrom.linalg import LinearOperator
from wherefrom.task import Examples


@dataclass(frozen=True)
class WeightedExamples:
    """Examples that enter a sum with one common weight.

    Attributes:
        examples: where they are read.
        index: which of these.
        weight: of each, in the units of the objective: `1/n` is one training example's.
    """

    examples: Examples
    index: Int[Tensor, " b"]
    weight: float


class CurvatureOfExamples(LinearOperator):
    """`Σ_j w_j C_j`, `C_j` the curvature of one example as the operator of the whole set has it.

    Args:
        whole: the data term of the curvature in use.
        parts: the examples and their weights, of either sign.

    Raises:
        UnsupportedError: an operator of another kind.
    """

    def __init__(self, whole: LinearOperator, parts: Sequence[WeightedExamples]):
        if not isinstance(whole, (GaussNewtonOperator, HessianOperator)):
            raise UnsupportedError(
                f"{type(whole).__name__} does not know the curvature of a single example; expected a "
                "Hessian, GGN or Fisher"
            )
        positive = whole.lower_bound >= 0 and all(part.weight >= 0 for part in parts)
        super().__init__(whole.size, whole.dtype, whole.device, 0.0 if positive else -math.inf)
        self._whole = whole
        self._parts = [
            WeightedExamples(part.examples, index, part.weight)
            for part in parts
            for index in part.index.to(whole.device).split(whole.engine.batch_size)
            if part.weight != 0
        ]

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        columns = self._whole.engine.columns
        if vectors.shape[1] > columns:
            return torch.cat([self.matmat(part) for part in vectors.split(columns, dim=1)], dim=1)
        total = torch.zeros_like(vectors)
        for part in self._parts:
            total += part.weight * self._product(part, vectors)
        return total

    def _product(self, part: WeightedExamples, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        whole = self._whole
        if isinstance(whole, HessianOperator):
            batch = part.examples.batch(part.index)
            return hessian_product(whole.engine.objective, batch, whole.mode)(vectors)
        at = whole.engine.linearise(part.examples, part.index)
        return at.vjp(whole.metric.apply(at.jvp(vectors), at, part.index))
