"""Small networks whose queries are contracted with their training examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.contraction.blocks import matrix
from wherefrom.curvature import choose_curvature
from wherefrom.curvature.kronecker import (
    BlockInverse,
    KroneckerOptions,
    factored_inverses,
    gather_kronecker,
    identity_inverses,
    kronecker_inverses,
)
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.losses import CrossEntropy
from wherefrom.solvers.contraction import GradientSource
from wherefrom.solvers.kronecker import data_term
from wherefrom.task import Objective

Build = Callable[[], tuple[nn.Module, Tensor, Tensor]]
N, Q = 40, 24


@dataclass(frozen=True)
class Contraction:
    inverses: list[BlockInverse]
    queries: GradientSource
    train: GradientSource
    model: nn.Module
    q: int = Q
    n: int = N

    def dense(self) -> Tensor:
        """`∇mᵀ M g` with gradients by autograd, one example at a time."""
        size = sum(inverse.block.size for inverse in self.inverses)
        whole = torch.zeros(size, size, dtype=torch.float64)
        for inverse in self.inverses:
            index = inverse.block.index.reshape(-1)
            whole[index[:, None], index] = matrix(inverse)
        rows = [_rows(self.model, source) for source in (self.queries, self.train)]
        return rows[0] @ whole @ rows[1].T


def contraction(build: Build, solver: str, *, memory: int = 2**30) -> Contraction:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, x, y = build()
    model = model.double().eval()
    objective = Objective(model, (x[:N], y[:N]), loss=CrossEntropy(), memory=memory)
    engine = GradientEngine(objective)
    layers = LayerGradients(engine)
    operator = choose_curvature(engine, "ggn", hvp_mode="auto", fisher_draws=1, seed=0).operator
    if solver == "identity":
        inverses = identity_inverses(layers.blocks, torch.float64)
    else:
        data, _ = data_term(operator, solver)
        curvature = gather_kronecker(data, layers, KroneckerOptions(method=solver), progress=False)
        damping = {name: 0.1 * max(value, 1e-9) for name, value in curvature.mean_eigenvalues().items()}
        inverses = (factored_inverses if solver == "kfac" else kronecker_inverses)(curvature, damping)
    queries = objective.read((x[N : N + Q], y[N : N + Q]), role="queries")
    return Contraction(
        inverses,
        GradientSource(layers, queries, objective.loss),
        GradientSource(layers, objective.examples, objective.loss),
        model,
    )


def dense() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 4))
    return model, torch.randn(N + Q, 40).double(), torch.randint(4, (N + Q,))


def convolutional() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.Tanh(),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
    return model, torch.randn(N + Q, 4, 5, 5).double(), torch.randint(3, (N + Q,))


class Tokens(nn.Module):
    """An embedding, a dense layer on every token, and class scores of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(23, 40)
        self.inner = nn.Linear(40, 40)
        self.head = nn.Linear(40, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.embed(tokens))).mean(1))


def tokens() -> tuple[nn.Module, Tensor, Tensor]:
    return Tokens(), torch.randint(23, (N + Q, 3)), torch.randint(3, (N + Q,))


NETWORKS: dict[str, Build] = {build.__name__: build for build in (dense, convolutional, tokens)}


def _rows(model: nn.Module, source: GradientSource) -> Tensor:
    rows = []
    count = len(source.examples)
    for i in range(count):
        x, y = source.examples.batch(slice(i, i + 1))
        loss = F.cross_entropy(model(x), y)
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)
