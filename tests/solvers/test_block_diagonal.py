"""The exact inverse of each layer's block, in both spaces, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import wherefrom
from tests.problems import PROBLEMS, attention_tokens, linear_head, tanh_mlp
from tests.support import as_a_user
from wherefrom.curvature import choose_curvature
from wherefrom.errors import (
    InputError,
    NonFiniteError,
    NotPositiveDefiniteError,
    OutOfMemoryError,
    UnsupportedError,
)
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.solvers import BlockDiagonal
from wherefrom.task import Objective

TOLERANCE = {"atol": 1e-10, "rtol": 1e-7}


def fitted(problem, solver=None, **options) -> wherefrom.Influence:
    chosen = {"curvature": "ggn", "progress": False, **problem.options, **options}
    solver = solver or BlockDiagonal()
    return wherefrom.Influence(problem.model, problem.data, loss=problem.loss, solver=solver, **chosen).fit()


def block_matrix(problem, diagonal: Tensor) -> Tensor:
    """The GGN without what lies between layers, and a diagonal."""
    ggn = problem.dense().ggn().detach()
    made = torch.diag(diagonal.double())
    for block in LayerGradients(GradientEngine(problem.objective())).blocks:
        index = block.index.reshape(-1)
        made[index[:, None], index] += ggn[index[:, None], index]
    return made


@pytest.mark.parametrize("name", PROBLEMS)
def test_scores_are_those_of_the_dense_blocks(name):
    problem = PROBLEMS[name]()
    influence = fitted(problem, weight_decay=0.01)
    diagonal = influence.damping.diagonal + 0.01
    gradients = problem.dense().gradients().detach()
    expected = gradients @ torch.linalg.solve(block_matrix(problem, diagonal), gradients.T)
    found = influence.scores(problem.data)
    torch.testing.assert_close(found.values, expected, **TOLERANCE)
    full = problem.dense().ggn().detach() + torch.diag(diagonal)
    truth = gradients @ torch.linalg.solve(full, gradients.T)
    assert bool(((found.values - truth).abs() <= found.bound).all()) and found.bound_proven


def test_both_spaces_agree():
    problem = tanh_mlp()
    problem.data = tuple(part[:4] for part in problem.data)
    operator = choose_curvature(GradientEngine(problem.objective()), "ggn").operator
    rhs = torch.randn(operator.size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decays = {"0.weight": 0.1, "0.bias": 0.2, "2.weight": 0.05, "2.bias": 0.3}
    objective = problem.objective(weight_decay=decays)
    damped = choose_curvature(GradientEngine(objective), "ggn").operator
    prepared = BlockDiagonal().prepare(damped)
    assert prepared.notes["dual"] == 2  # 8 roots against 25 and 18 parameters
    undamped_bias = choose_curvature(
        GradientEngine(problem.objective(weight_decay={**decays, "0.bias": 0.0})), "ggn"
    ).operator
    assert BlockDiagonal().prepare(undamped_bias.damped(1e-9)).notes["dual"] == 2
    ggn = operator.to_dense()
    diagonal = damped.to_dense().diagonal() - ggn.diagonal()
    expected = torch.diag(diagonal)
    for start, stop in ((0, 25), (25, 43)):
        expected[start:stop, start:stop] += ggn[start:stop, start:stop]
    torch.testing.assert_close(prepared.solve(rhs).x, torch.linalg.solve(expected, rhs), **TOLERANCE)
    inverse = prepared.as_preconditioner().to_dense()
    torch.testing.assert_close(inverse @ expected, torch.eye(43, dtype=torch.float64), **TOLERANCE)


def test_one_layer_alone_is_solved_exactly():
    problem = linear_head()
    found = fitted(problem, damping=0.01).scores(problem.data)
    expected = fitted(problem, wherefrom.Exact(), damping=0.01).scores(problem.data)
    torch.testing.assert_close(found.values, expected.values, **TOLERANCE)
    assert float(found.relative_residual.max()) < 1e-12


def test_as_a_preconditioner_it_leads_to_the_full_answer():
    problem = attention_tokens()
    solver = wherefrom.CG(preconditioner=BlockDiagonal(), rtol=1e-10)
    influence = fitted(problem, solver, damping=0.01)
    gradients = problem.dense().gradients().detach()
    full = problem.dense().ggn().detach() + 0.01 * torch.eye(gradients.shape[1], dtype=torch.float64)
    expected = gradients @ torch.linalg.solve(full, gradients.T)
    torch.testing.assert_close(influence.scores(problem.data).values, expected, rtol=1e-6, atol=1e-8)


def test_a_block_too_large_in_both_spaces_is_named():
    with pytest.raises(UnsupportedError, match=r"block '0' has 25 parameters.*22; .*max_size=10.*EKFAC"):
        fitted(tanh_mlp(), BlockDiagonal(max_size=10))


def test_blocks_beyond_the_memory_budget_are_refused():
    with pytest.raises(OutOfMemoryError, match=r"memory=.*parameters=.*EKFAC"):
        fitted(tanh_mlp(), memory=4000)


def test_a_singular_block_names_the_damping_that_repairs_it():
    problem = tanh_mlp()
    with pytest.raises(NotPositiveDefiniteError, match=r"block '0' is singular.*damping=") as caught:
        BlockDiagonal().prepare(choose_curvature(GradientEngine(problem.objective()), "ggn").operator)
    assert fitted(problem, damping=caught.value.damping).scores(problem.data).converged.all()


def test_gradients_that_overflow_are_refused():
    model = nn.Linear(4, 3, bias=False).float()
    x = torch.full((5, 4), 1e38)
    with torch.no_grad():
        model.weight.zero_()
    objective = Objective(model, (x, torch.zeros(5, 3)), loss=wherefrom.SquaredError(scale=100.0))
    operator = choose_curvature(GradientEngine(objective), "ggn").operator
    with pytest.raises(NonFiniteError, match=r"block 'model'.*NaN or infinity"):
        BlockDiagonal().prepare(operator)


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, None])
def test_bad_sizes_are_refused(wrong):
    with as_a_user(), pytest.raises(InputError, match=r"max_size=.*a whole number of at least 1"):
        BlockDiagonal(wrong)
