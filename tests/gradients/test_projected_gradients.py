"""Projected gradients of a whole set against projections of dense autograd gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.problems import PROBLEMS, attention_tokens, convolution, labels, mlp, normal, seeded, tanh_mlp
from wherefrom.errors import InputError, NonFiniteError, OutOfMemoryError
from wherefrom.gradients import GradientEngine, LayerGradients, projected
from wherefrom.gradients.projected import project_gradients
from wherefrom.gradients.projections import Gaussian, LoGra, Rademacher, SparseJL
from wherefrom.task import Objective

TOLERANCE = {"atol": 1e-11, "rtol": 1e-9}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "projection", [Rademacher(7, 1), SparseJL(9), LoGra(2, 3, clip=True)], ids=lambda p: p.name
)
def test_rows_are_the_projected_gradients(name, projection):
    problem = PROBLEMS[name]()
    engine = GradientEngine(problem.objective(), batch_size=4)
    made = project_gradients(engine, engine.objective.examples, engine.objective.loss, projection)
    gradients = problem.dense().gradients()
    assert made.values.shape == (len(gradients), made.projection.k)
    torch.testing.assert_close(made.values, made.projection.apply(gradients), **TOLERANCE)


def test_explicit_rows_of_whatever_batches_are_projected_alike():
    values = []
    for batch_size in (1, 3, 11):
        engine = GradientEngine(tanh_mlp().objective(), batch_size)
        values.append(
            project_gradients(
                engine, engine.objective.examples, engine.objective.loss, Gaussian(6), progress=False
            ).values
        )
    for other in values[1:]:
        torch.testing.assert_close(other, values[0], **TOLERANCE)


@pytest.mark.parametrize("build", [tanh_mlp, convolution, attention_tokens])
def test_layer_gradients_serve_queries_and_other_measurements_by_the_same_map(build):
    problem = build()
    layers = LayerGradients(GradientEngine(problem.objective()))
    objective = layers.objective
    projection = LoGra(2, 2, clip=True, seed=3)
    first = project_gradients(layers, objective.examples, objective.loss, projection)
    again = project_gradients(layers, objective.examples, lambda f, y: -2 * objective.loss(f, y), projection)
    torch.testing.assert_close(again.values, -2 * first.values)
    dense = project_gradients(layers, objective.examples, objective.loss, Rademacher(5))
    assert dense.values.shape == (objective.n, 5)


def test_the_distortion_is_that_of_the_set():
    problem = tanh_mlp()
    engine = GradientEngine(problem.objective())
    made = project_gradients(engine, engine.objective.examples, engine.objective.loss, Rademacher(30, 2))
    gradients = problem.dense().gradients()
    found = made.distortion
    assert found is not None and (found.sample, found.p, found.k) == (11, engine.objective.p, 30)
    ratios = (made.values.norm(dim=1) / gradients.norm(dim=1) - 1).abs()
    assert found.norm_median == pytest.approx(float(ratios.median()))


def test_a_lone_example_has_no_distortion():
    engine = GradientEngine(tanh_mlp().objective())
    queries = engine.objective.read((normal(1, 4), labels(1)), role="queries")
    made = project_gradients(engine, queries, engine.objective.loss, Rademacher(3))
    assert made.values.shape == (1, 3) and made.distortion is None


class Root(nn.Module):
    """`√‖x‖` of a linear map: its gradient at zero is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).abs().sqrt()


@pytest.mark.parametrize("projection", [Rademacher(3), LoGra(2, 2)], ids=lambda p: p.name)
def test_a_gradient_that_is_not_finite_is_named(projection):
    x = normal(6, 4)
    objective = Objective(seeded(Root), (x, labels(6)), loss="cross_entropy")
    engine = GradientEngine(objective)
    x[4] = 0
    queries = objective.read((x, labels(6)), role="queries")
    with pytest.raises(NonFiniteError, match="queries: the gradient of example 4"):
        project_gradients(engine, queries, objective.loss, projection)


def test_values_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    engine = GradientEngine(tanh_mlp().objective())
    monkeypatch.setattr(projected, "available_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"11 projected gradients of 100 numbers.*fewer dimensions"):
        project_gradients(engine, engine.objective.examples, engine.objective.loss, Rademacher(100))


def test_ranks_that_do_not_fit_a_layer_are_refused():
    objective = Objective(mlp(), (normal(6, 4), labels(6)), loss="cross_entropy")
    with pytest.raises(InputError, match=r"rank_out=4: the matrix of '2' is 3 × 6"):
        project_gradients(GradientEngine(objective), objective.examples, objective.loss, LoGra(2, 4))
