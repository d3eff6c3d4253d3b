"""Small fits whose curvature can be written out."""

from __future__ import annotations

import torch
from torch import nn

import wherefrom


def network(classes: int = 3, decay: float = 0.02, **options) -> wherefrom.Influence:
    """A tanh network on 40 random examples, in float64, not at a minimum."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 4, dtype=torch.float64), torch.randint(0, classes, (40,))
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)).double().eval()
    return wherefrom.Influence(
        model, (x, y), loss="cross_entropy", weight_decay=decay, progress=False, **options
    ).fit()


def dense_hessian(influence: wherefrom.Influence) -> torch.Tensor:
    """`∇² (1/n) Σ ℓ_i` by plain autograd, without the regulariser."""
    objective = influence.objective
    batch = objective.examples.batch(range(objective.n))

    def mean_loss(flat: torch.Tensor) -> torch.Tensor:
        return objective.losses(objective.parameters.unflatten(flat), batch).mean()

    return torch.autograd.functional.hessian(mean_loss, objective.parameters.flat())


def dense_gauss_newton(influence: wherefrom.Influence) -> torch.Tensor:
    """`(1/n) Σ Jᵀ (diag p − p pᵀ) J` by plain autograd."""
    objective = influence.objective
    batch = objective.examples.batch(range(objective.n))

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        return objective.outputs(objective.parameters.unflatten(flat), batch)

    flat = objective.parameters.flat()
    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    p = outputs(flat).softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("bcp,bcd,bdq->pq", jacobian, curvature, jacobian) / objective.n
