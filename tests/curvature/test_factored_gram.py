"""Gram matrices of a Gauss-Newton factor from factored gradients, against the factor itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.problems import (
    PROBLEMS,
    Problem,
    attention_tokens,
    convolution,
    labels,
    mlp,
    normal,
    seeded,
    tanh_mlp,
)
from wherefrom.curvature import GaussNewtonOperator, choose_curvature, factored_gram, gauss_newton
from wherefrom.curvature.factored_gram import FactoredGram
from wherefrom.errors import OutOfMemoryError
from wherefrom.gradients import GradientEngine, LayerGradients

NAMES = [name for name, build in PROBLEMS.items() if build().objective().examples.uniform]


def operator(problem: Problem, curvature: str = "ggn", **options) -> GaussNewtonOperator:
    engine = GradientEngine(problem.objective(**options))
    return choose_curvature(engine, curvature).operator.terms[0]


def factored(problem: Problem, curvature: str = "ggn", **options) -> FactoredGram:
    found = operator(problem, curvature, **options)
    return FactoredGram(LayerGradients(found.engine), found.metric)


def expected(problem: Problem, scale: torch.Tensor, curvature: str = "ggn") -> torch.Tensor:
    found = operator(problem, curvature)
    factor = found.factor_apply(torch.eye(found.rank, dtype=torch.float64))
    torch.testing.assert_close(factor @ factor.T / found.n_examples, dense(problem, curvature))
    return factor.T @ (scale[:, None] * factor)


def dense(problem: Problem, curvature: str) -> torch.Tensor:
    return problem.dense().ggn() if curvature == "ggn" else problem.dense().empirical_fisher()


def scales(problem: Problem) -> dict[str, torch.Tensor]:
    """Constant; another one for biases, as weight decay that spares them makes it; none like another."""
    parameters = problem.objective().parameters
    by_kind = [
        torch.full((size,), 2.0 if name.endswith("bias") else 0.5)
        for name, size in zip(parameters.names, parameters.sizes)
    ]
    p = sum(parameters.sizes)
    scales = {"constant": torch.full((p,), 3.0), "biases": torch.cat(by_kind), "any": torch.linspace(1, 2, p)}
    return {name: scale.double() for name, scale in scales.items()}


@pytest.mark.parametrize("way", ["cheaper", "pairs", "rows"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_gram_matrix_of_the_factor(name, way, monkeypatch):
    problem = PROBLEMS[name]()
    if way != "cheaper":
        other = "_rows_cost" if way == "pairs" else "_pairs_cost"
        monkeypatch.setattr(FactoredGram, other, lambda *_: float("inf"))
    gram = factored(problem)
    for scale in scales(problem).values():
        found = gram.matrix(scale, torch.float64)
        assert torch.equal(found, found.T)
        torch.testing.assert_close(found, expected(problem, scale), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("curvature", ["empirical_fisher"])
@pytest.mark.parametrize("build", [tanh_mlp, attention_tokens, convolution])
def test_other_output_curvatures(build, curvature):
    problem = build()
    scale = scales(problem)["biases"]
    found = factored(problem, curvature).matrix(scale, torch.float64)
    torch.testing.assert_close(found, expected(problem, scale, curvature), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("build", [tanh_mlp, attention_tokens, convolution])
@pytest.mark.parametrize(("rows", "memory"), [(4, "1GB"), (1000, 20_000), (4, 2_000)])
def test_tiles_and_panels_change_rounding_only(build, rows, memory, monkeypatch):
    problem = build()
    scale = scales(problem)["biases"]
    whole = factored(problem).matrix(scale, torch.float64)
    monkeypatch.setattr(factored_gram, "_TILE_ROWS", rows)
    gram = factored(problem, memory=memory)
    found = gram.matrix(scale, torch.float64)
    torch.testing.assert_close(found, whole, atol=1e-13, rtol=1e-12)
    assert torch.equal(gram.matrix(scale, torch.float64), found)


def test_single_precision_is_right_to_its_rounding():
    problem = tanh_mlp()
    scale = scales(problem)["biases"]
    found = factored(problem, dtype=torch.float32).matrix(scale.float(), torch.float32)
    assert found.dtype == torch.float32
    truth = expected(problem, scale)
    sizes = truth.diagonal().sqrt()
    assert bool(((found.double() - truth).abs() <= 1e-5 * sizes[:, None] * sizes[None]).all())


def test_a_block_that_every_weight_scales_alone_uses_its_rows():
    gram, problem = factored(tanh_mlp()), tanh_mlp()
    assert gram._ways(scales(problem)["biases"]) == ["pairs", "pairs"]
    assert gram._ways(scales(problem)["any"]) == ["rows", "rows"]


def test_the_operator_takes_the_cheaper_way(monkeypatch):
    problem = tanh_mlp()
    assert operator(problem)._factored_gram() is None  # too small for anything but explicit rows
    monkeypatch.setattr(gauss_newton, "_SMALL_GRAM", 0.0)
    wide = Problem(
        **{**vars(problem), "model": seeded(lambda: nn.Sequential(nn.Linear(4, 400), nn.Linear(400, 3)))}
    )
    found = operator(wide)
    assert isinstance(found._factored_gram(), FactoredGram)
    assert found.gram_operations() < found._explicit_operations()
    scale = torch.full((found.size,), 0.5, dtype=torch.float64)
    monkeypatch.setattr(gauss_newton, "_SMALL_GRAM", float("inf"))
    explicit = operator(wide)
    assert explicit._factored_gram() is None
    assert explicit.gram_operations() == found._explicit_operations() >= found.rank**2 * found.size
    torch.testing.assert_close(found.factor_gram(scale), explicit.factor_gram(scale), atol=1e-12, rtol=1e-10)


def test_a_model_that_hooks_cannot_see_into_uses_explicit_rows(monkeypatch):
    monkeypatch.setattr(gauss_newton, "_SMALL_GRAM", 0.0)
    x, y = normal(11, 4), labels(11)
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(mlp(), x)
    problem = Problem(**{**vars(tanh_mlp()), "model": traced, "data": (x, y)})
    found = operator(problem)
    assert found._factored_gram() is None
    scale = torch.ones(found.size, dtype=torch.float64)
    torch.testing.assert_close(found.factor_gram(scale), expected(tanh_mlp(), scale), atol=1e-12, rtol=1e-10)


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_formed(monkeypatch):
    monkeypatch.setattr(factored_gram, "available_memory", lambda device: 1000)
    found = operator(tanh_mlp())
    with pytest.raises(OutOfMemoryError, match=r"has 22 rows .* needs 0\.0 GB.*solver=EKFAC\(\)"):
        found.factor_gram(torch.ones(found.size, dtype=torch.float64))
