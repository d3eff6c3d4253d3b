"""Heads of many training sets at once, against one dense float64 problem each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.attack.attack_problems import data, head, plain_head
from tests.support import Plain, half_square, logistic, seeded
from wherefrom import Influence
from wherefrom.errors import ConvergenceError, UnsupportedError
from wherefrom.influence import input_influence
from wherefrom.influence.continuous_input import find_input
from wherefrom.linalg import batched_cg
from wherefrom.studies.attack.budget import Budget
from wherefrom.studies.attack.choose import choose_examples
from wherefrom.studies.attack.features import FeatureReader
from wherefrom.studies.attack.head import EditedHead, HeadProblem, empty_edits, head_obstacle
from wherefrom.studies.attack.head_attack import HeadAttack
from wherefrom.studies.attack.newton import has_optimum, refit, solve_damped


def some_edits(problem: HeadProblem, seed: int = 0) -> tuple[EditedHead, list[torch.Tensor]]:
    """Three training sets with two examples edited in each, and their inputs."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.tensor([[3, 50], [7, 3], [0, 59]])
    inputs = []
    reader = FeatureReader(problem, find_input(problem.objective))
    features = []
    for row in index:
        x = data(60)[0].clone()
        x[row] += 0.3 * torch.randn(2, 64, generator=generator, dtype=torch.float64)
        inputs.append(x)
        features.append(reader(row, x[row]))
    return EditedHead(index, torch.stack(features)), inputs


def test_objective_gradient_and_products_equal_the_dense_ones():
    problem = HeadProblem(head())
    edited, inputs = some_edits(problem)
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(75, 3, generator=generator, dtype=torch.float64)
    vectors = torch.randn(75, 3, generator=generator, dtype=torch.float64)
    at = problem.evaluate(problem.to_heads(columns), edited)
    products = problem.to_columns(problem.product(at, edited, problem.to_heads(vectors)))
    for b, x in enumerate(inputs):
        plain = plain_head(x)
        leaf = columns[:, b].clone().requires_grad_()
        value = plain.objective(leaf)
        torch.testing.assert_close(at.value[b], value.detach())
        (gradient,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(problem.to_columns(at.gradient)[:, b], gradient)
        torch.testing.assert_close(products[:, b], plain.hessian(columns[:, b]) @ vectors[:, b])


def test_refitted_heads_are_the_optima_of_the_edited_training_sets():
    problem = HeadProblem(head())
    edited, inputs = some_edits(problem)
    for start in (problem.start.expand(3, -1, -1), torch.zeros(3, *problem.start.shape).double()):
        fit = refit(problem, start, edited, tolerance=1e-8)
        assert bool(fit.converged.all()) and fit.steps < 15
        for b, x in enumerate(inputs):
            torch.testing.assert_close(
                problem.to_columns(fit.heads)[:, b], plain_head(x).minimise(), rtol=1e-5, atol=1e-7
            )


def test_damped_systems_are_solved_each_with_its_own_matrix():
    influence = Influence(
        head().objective.model,
        data(60),
        loss="cross_entropy",
        weight_decay=1e-3,
        damping=0.05,
        progress=False,
    ).fit()
    problem = HeadProblem(influence)
    edited, inputs = some_edits(problem)
    heads = problem.start.expand(3, -1, -1)
    rhs = torch.randn(3, *problem.start.shape, generator=torch.Generator().manual_seed(2)).double()
    at = problem.evaluate(heads, edited)
    found, converged = solve_damped(problem, at, edited, rhs, None, rtol=1e-10)
    assert bool(converged.all())
    for b, x in enumerate(inputs):
        matrix = plain_head(x).hessian() + 0.05 * torch.eye(75).double()
        torch.testing.assert_close(
            problem.to_columns(found)[:, b], torch.linalg.solve(matrix, problem.to_columns(rhs)[:, b])
        )


def test_a_solver_that_cannot_precondition_is_done_without():
    influence = Influence(
        head().objective.model, data(60), loss="cross_entropy", weight_decay=1e-3, solver="cg", progress=False
    ).fit()
    problem = HeadProblem(influence)
    edited, inputs = some_edits(problem)
    fit = refit(problem, problem.start.expand(3, -1, -1), edited, tolerance=1e-6)
    assert bool(fit.converged.all())
    torch.testing.assert_close(
        problem.to_columns(fit.heads)[:, 1], plain_head(inputs[1]).minimise(), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("bias", [True, False, "frozen"])
@pytest.mark.parametrize("kind", ["logistic", "squared_error"])
def test_other_losses_and_heads(kind, bias):
    x, y = data(40)
    model = seeded(lambda: nn.Linear(64, 1 if kind == "logistic" else 2, bias=bool(bias)))
    if bias == "frozen":
        model.bias.requires_grad_(False)
    targets = (
        (2.0 * (y > 0) - 1).double() if kind == "logistic" else torch.stack([y == 0, y == 1], 1).double()
    )
    influence = Influence(model, (x, targets), loss=kind, weight_decay=0.01, progress=False).fit()
    problem = HeadProblem(influence)
    changed = x.clone()
    changed[[2, 9]] *= 0.5
    reader = FeatureReader(problem, find_input(problem.objective))
    edited = EditedHead(torch.tensor([[2, 9]]), reader(torch.tensor([2, 9]), changed[[2, 9]])[None])
    fit = refit(problem, problem.start[None], edited, tolerance=1e-8)
    plain = Plain(model, logistic if kind == "logistic" else half_square, (changed, targets), 0.01)
    if bias == "frozen":
        bias_value = model.bias.detach().clone()
        plain = Plain(
            nn.Linear(64, model.out_features, bias=False).double(),
            lambda f, t: (logistic if kind == "logistic" else half_square)(f + bias_value, t),
            (changed, targets),
            0.01,
        )
    torch.testing.assert_close(problem.to_columns(fit.heads)[:, 0], plain.minimise(), rtol=1e-5, atol=1e-7)


def test_separable_classes_without_weight_decay_do_not_converge():
    x, y = data(40)
    model = seeded(lambda: nn.Linear(64, 3))
    influence = Influence(model, (x, y), loss="cross_entropy", damping=0.1, progress=False).fit()
    problem = HeadProblem(influence)
    none = empty_edits(problem, 1)
    fit = refit(problem, problem.start[None], none, tolerance=1e-3)
    assert not bool(has_optimum(problem, fit.heads, none)[0])
    with pytest.raises(ConvergenceError, match="no optimum of the head on the unedited training set"):
        HeadAttack(problem, FeatureReader(problem, find_input(problem.objective)), problem.objective.examples)


def test_squared_error_has_an_optimum_without_weight_decay():
    x, y = data(60)
    targets = torch.nn.functional.one_hot(y, 3).double()
    model = seeded(lambda: nn.Linear(6, 3))
    influence = Influence(
        model, (x[:, 20:26], targets), loss="squared_error", damping=1e-3, progress=False
    ).fit()
    problem = HeadProblem(influence)
    none = empty_edits(problem, 1)
    fit = refit(problem, problem.start[None], none, tolerance=1e-6)
    assert bool(fit.converged[0] & has_optimum(problem, fit.heads, none)[0])


def test_conjugate_gradients_stop_at_a_direction_without_curvature():
    def product(v: torch.Tensor) -> torch.Tensor:
        return v * torch.tensor([1.0, 0.0]).double()

    x, converged = batched_cg(product, lambda v: v, torch.ones(1, 1, 2).double(), rtol=1e-8)
    assert not bool(converged[0]) and bool(torch.isfinite(x).all())
    x, converged = batched_cg(product, lambda v: v, torch.tensor([[[2.0, 0.0]]]).double(), rtol=1e-8)
    assert bool(converged[0]) and float(x[0, 0, 0]) == 2.0


@pytest.mark.parametrize("shortlist", [None, 20])
@pytest.mark.parametrize("budget", [Budget(0.1), Budget(0.1, "l2")], ids=["linf", "l2"])
def test_the_chosen_examples_are_those_of_largest_input_influence(budget, shortlist):
    influence = head()
    problem = HeadProblem(influence)
    reader = FeatureReader(problem, find_input(problem.objective))
    queries = data(4, start=200)
    found = input_influence(influence, queries, mean=False)
    heads = problem.start.expand(4, -1, -1)
    gradients = plain_head().gradients((frozen_features(queries[0]), queries[1]))
    solved = problem.to_heads(torch.linalg.solve(plain_head().hessian(), gradients.T))
    chosen = choose_examples(
        problem,
        reader,
        heads,
        solved,
        edits=3,
        budget=budget,
        candidates=torch.arange(60),
        shortlist=shortlist,
    )
    for q in range(4):
        assert chosen[q].tolist() == found.top(3, query=q, order=budget.dual)
    assert set(
        choose_examples(
            problem,
            reader,
            heads,
            solved,
            edits=2,
            budget=budget,
            candidates=torch.tensor([5, 6, 7]),
            shortlist=None,
        )
        .flatten()
        .tolist()
    ) <= {5, 6, 7}


def frozen_features(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return head().objective.model[:2](x)


def test_what_is_no_head_is_named():
    x, y = data(30)
    network = seeded(lambda: nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 3)))
    options = {"damping": 0.1, "curvature": "ggn", "progress": False}
    fitted = Influence(network, (x, y), loss="cross_entropy", **options).fit()
    assert "not those of one final linear layer" in head_obstacle(fitted)
    with pytest.raises(UnsupportedError, match="no linear head to attack"):
        HeadProblem(fitted)
    fitted = Influence(
        network,
        (x, y),
        loss="cross_entropy",
        parameters="2",
        regulariser=lambda p: sum(v.square().sum() for v in p.values()),
        **options,
    ).fit()
    assert "regulariser" in head_obstacle(fitted)
