"""The solvers on a network's own curvature, with EK-FAC as preconditioner, against a dense solve."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.solvers.plain_operators import gaussian
from wherefrom.curvature import choose_curvature
from wherefrom.gradients import ExampleGradients, GradientEngine
from wherefrom.solvers import CG, EKFAC, Arnoldi, Astra, DataInf, Nystrom
from wherefrom.task import Objective

DAMPING = 0.02


@pytest.fixture(scope="module")
def network():
    """A small classifier: damped GGN, its dense matrix, training gradients, query gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    data = (gaussian(60, 6), torch.arange(60) % 4)
    objective = Objective(model, data, loss="cross_entropy")
    engine = GradientEngine(objective)
    operator = choose_curvature(engine, "ggn").operator.damped(DAMPING)
    gradients = ExampleGradients(engine, objective.examples, objective.loss)
    train = gradients.rows(slice(0, 60)).T
    return operator, operator.to_dense(), train, train[:, ::12] + 0.3 * gaussian(len(train), 5, seed=4)


@pytest.mark.parametrize("preconditioner", [EKFAC(), Nystrom(rank=30), Arnoldi(rank=30), DataInf()])
@pytest.mark.parametrize("stop", ["residual", "scores"])
def test_conjugate_gradients_with_every_preconditioner(network, preconditioner, stop):
    operator, dense, train, rhs = network
    prepared = CG(rtol=1e-8, preconditioner=preconditioner, stop=stop).prepare(operator)
    prepared.watch(train[:, ::3])
    solution = prepared.solve(rhs)
    truth = train.T @ torch.linalg.solve(dense, rhs)
    error = (train.T @ solution.x - truth).norm(dim=0) / truth.norm(dim=0)
    assert bool(solution.converged.all()), solution.reason
    assert float(error.max()) <= (1e-6 if stop == "residual" else 1e-3)


@pytest.mark.parametrize(
    ("solver", "reach"),
    [
        (Arnoldi(rank=60), 2e-2),
        (Nystrom(rank=60), 2e-2),
        (Astra(EKFAC(), batch_size=20, steps=60), 0.5),
        (Astra(Nystrom(rank=40), batch_size=20, steps=60, anchors=2), 0.05),
        (DataInf(), 100.0),
    ],
)
def test_scores_are_as_close_as_the_method_allows_and_within_their_bound(network, solver, reach):
    operator, dense, train, rhs = network
    prepared = solver.prepare(operator)
    solution = prepared.solve(rhs)
    truth = train.T @ torch.linalg.solve(dense, rhs)
    error = (train.T @ solution.x - truth).abs()
    assert float(error.norm() / truth.norm()) < reach
    assert prepared.lower_bound_proven and prepared.lower_bound == pytest.approx(DAMPING)
    assert bool((error <= train.norm(dim=0)[:, None] * solution.residual_norm / DAMPING * (1 + 1e-9)).all())
    estimate = torch.einsum("pu,rpk->ruk", train, solution.error_directions).norm(dim=0)
    assert 1 / 5 < float((estimate / error).median()) < 5
