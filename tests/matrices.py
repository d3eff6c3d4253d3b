"""Symmetric matrices with known eigenvalues, of the kinds that spectral algorithms meet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.problems import Problem, classification, labels, normal, seeded
from wherefrom.curvature import choose_curvature
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import DenseOperator, LinearOperator

SIZE = 120
_INDEX = torch.arange(SIZE, dtype=torch.float64)

SPECTRA: dict[str, Tensor] = {
    "indefinite": normal(SIZE, seed=3),
    "power": (1 + _INDEX) ** -1.5,
    "exponential": 0.7**_INDEX,
    "cluster": torch.cat([5 + 1e-4 * _INDEX[:12], _INDEX[12:] / SIZE]),
    "repeated": torch.cat([torch.full((30,), 2.0), _INDEX[30:] / SIZE]).double(),
    "low_rank": torch.where(_INDEX < 4, _INDEX + 1, 0.0),
    "identity": torch.full((SIZE,), 3.0, dtype=torch.float64),
    "zero": torch.zeros(SIZE, dtype=torch.float64),
}


def with_eigenvalues(values: Tensor, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> DenseOperator:
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed))[0]
    return DenseOperator(((basis * values) @ basis.T).to(dtype))


class Counted(LinearOperator):
    """Counts the products with another operator."""

    def __init__(self, operator: LinearOperator):
        super().__init__(operator.size, operator.dtype, operator.device, operator.lower_bound)
        self.operator, self.products = operator, 0

    def matmat(self, vectors: Tensor) -> Tensor:
        self.products += vectors.shape[1]
        return self.operator.matmat(vectors)


def network() -> Problem:
    """A network with 131 parameters, away from a minimum."""
    model = seeded(
        lambda: nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 2))
    )
    return classification(model, normal(40, 6), labels(40, classes=2))


def network_hessian() -> tuple[LinearOperator, Tensor]:
    """Its Hessian as an operator, and dense by plain autograd."""
    problem = network()
    operator = choose_curvature(GradientEngine(problem.objective()), "hessian").operator
    return operator, problem.dense().hessian()
