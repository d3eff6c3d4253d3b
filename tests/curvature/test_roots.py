"""Output roots: counted from shapes, taken in parts, and never more of them at once than the budget holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curvature.kronecker_cases import Setting, class_weights, mean_squares, normalised, summed_tokens
from tests.problems import HEADS, PROBLEMS, attention_tokens, tanh_mlp, token_head
from wherefrom.curvature import GaussNewtonOperator, choose_curvature, gauss_newton
from wherefrom.curvature.metrics import (
    EmpiricalFisherMetric,
    ExactFisherMetric,
    LossHessianMetric,
    OutputMetric,
    SampledFisherMetric,
)
from wherefrom.errors import OutOfMemoryError
from wherefrom.gradients import GradientEngine
from wherefrom.losses import CustomLoss, FeatureDistance
from wherefrom.task import Objective

TINY = 2_000  # bytes: a few roots of a few examples
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


def ggn(problem, **options) -> GaussNewtonOperator:
    return choose_curvature(GradientEngine(problem.objective(**options)), "ggn").data


def metrics(problem) -> list[OutputMetric]:
    loss = ggn(problem).metric.loss
    made: list[OutputMetric] = [LossHessianMetric(loss), EmpiricalFisherMetric(loss)]
    if problem.is_softmax:
        made += [ExactFisherMetric(loss), SampledFisherMetric(loss, 3, 0)]
    return made


@given(name=st.sampled_from(sorted(PROBLEMS)), numbers=st.integers(1, 2_000))
@settings(max_examples=25, deadline=None)
def test_parts_are_the_roots_in_order_and_no_larger_than_asked(name, numbers):
    problem = PROBLEMS[name]()
    engine = GradientEngine(problem.objective())
    where = slice(2, 6)
    at = engine.linearise(engine.objective.examples, where)
    for metric in metrics(problem):
        whole = metric.cotangents(at, where)
        assert metric.count(at) == len(whole)
        parts = list(metric.parts(at, where, numbers))
        stops = [place.stop for place, _ in parts]
        assert [place.start for place, _ in parts] == [0, *stops[:-1]] and stops[-1] == len(whole)
        torch.testing.assert_close(torch.cat([part for _, part in parts]), whole, rtol=1e-12, atol=1e-15)
        assert all(len(part) == 1 or part.numel() <= numbers for _, part in parts)


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_a_small_budget_changes_rounding_only(name):
    problem = PROBLEMS[name]()
    small, large = ggn(problem, memory=TINY), ggn(problem)
    p, rank = large.size, large.rank
    assert small.rank == rank
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(p, 2, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(rank, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(small.factor_adjoint(vectors), large.factor_adjoint(vectors), **TOLERANCE)
    torch.testing.assert_close(
        small.factor_apply(coefficients), large.factor_apply(coefficients), **TOLERANCE
    )
    scale = torch.linspace(0.5, 2, p, dtype=torch.float64)
    torch.testing.assert_close(small.factor_gram(scale), large.factor_gram(scale), **TOLERANCE)
    torch.testing.assert_close(small.to_dense(), problem.dense().ggn(), **TOLERANCE)


@pytest.mark.parametrize("name", ["tanh_mlp", "attention_tokens", "convolution"])
def test_columns_in_the_place_of_rows_give_the_same_matrix(name, monkeypatch):
    problem = PROBLEMS[name]()
    monkeypatch.setattr(gauss_newton, "_FEWER", float("inf"))
    torch.testing.assert_close(ggn(problem).to_dense(), problem.dense().ggn(), **TOLERANCE)


def test_columns_are_taken_where_roots_are_many():
    operator = ggn(token_head())
    assert operator._rows_operations() < 4 * operator._columns_operations()
    operator.roots.each = 100_000
    assert operator._rows_operations() > 1e3 * operator._columns_operations()
    assert operator.dense_operations() <= 4 * operator._columns_operations()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_head_matrices_in_small_pieces(name):
    problem = PROBLEMS[name]()
    torch.testing.assert_close(ggn(problem, memory=1_000).to_dense(), problem.dense().ggn(), **TOLERANCE)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("build", [tanh_mlp, attention_tokens, summed_tokens, normalised])
def test_kronecker_factors_of_roots_in_parts(build, sharing, monkeypatch):
    """Padding is told from all roots together: one root of a causal model leaves later positions without a
    gradient."""
    problem = build()
    whole = Setting(problem).gathering(sharing=sharing, labels="exact")
    parted = Setting(problem).gathering(sharing=sharing, labels="exact")
    monkeypatch.setattr(parted.layers, "roots_together", lambda: 1)
    moments, expected = parted.moments(), whole.moments()
    assert moments.covered == expected.covered
    for name, total in expected.sums.items():
        torch.testing.assert_close(moments.sums[name], total, **TOLERANCE)
    bases = whole.bases(expected)
    sums = parted.eigenvalues(bases)
    for name, total in whole.eigenvalues(bases).sums.items():
        torch.testing.assert_close(sums.sums[name], total, **TOLERANCE)


@pytest.mark.parametrize("build", [class_weights, mean_squares, attention_tokens])
def test_fisher_products_need_no_roots(build):
    problem = build()
    engine = GradientEngine(problem.objective())
    at = engine.linearise(engine.objective.examples, slice(0, 5))
    vectors = torch.randn(2, *at.outputs.shape, dtype=torch.float64)
    if build is class_weights:  # no likelihood: of its Hessian
        metric: OutputMetric = LossHessianMetric(engine.objective.loss)
    else:
        metric = ExactFisherMetric(engine.objective.loss)
    expected = OutputMetric.apply(metric, vectors, at, slice(0, 5))
    torch.testing.assert_close(metric.apply(vectors, at, slice(0, 5)), expected, **TOLERANCE)


def test_output_curvatures_are_kept_as_matrices_only_where_they_fit():
    problem = tanh_mlp()
    vectors = torch.ones(ggn(problem).size, 4, dtype=torch.float64)
    kept, none = ggn(problem), ggn(problem, memory=TINY)
    torch.testing.assert_close(none.matmat(vectors), kept.matmat(vectors), **TOLERANCE)
    assert len(kept.metric._blocks) > 0 and len(none.metric._blocks) == 0


def coupled(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).flatten(1).square().sum(1) + torch.logsumexp(outputs.flatten(1), 1)


def wide(loss, memory: int | str, outputs: int = 60, **options):
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, outputs)).double()
    made = Objective(
        model, (x, torch.zeros(6, outputs).double()), loss=loss, memory=memory, parameters="0", **options
    )
    return choose_curvature(GradientEngine(made), "ggn").data


def test_a_custom_loss_whose_roots_do_not_fit_is_refused_before_they_are_made():
    operator = wide(CustomLoss(coupled, convex=True), "100kB")
    assert operator.rank == 6 * 60
    with pytest.raises(OutOfMemoryError, match=r"loss 'coupled': all 60 outputs .* 60 backward passes"):
        operator.factor_adjoint(torch.ones(operator.size, 1, dtype=torch.float64))
    # Products need none.
    assert bool(torch.isfinite(operator.matmat(torch.ones(operator.size, 1, dtype=torch.float64))).all())


def test_roots_of_many_outputs_are_made_column_by_column():
    loss = FeatureDistance(smoothing=0.1)
    small, large = (wide(loss, memory) for memory in ("3kB", "1GB"))
    torch.testing.assert_close(small.to_dense(), large.to_dense(), **TOLERANCE)
    vector = torch.ones(small.size, 1, dtype=torch.float64)
    torch.testing.assert_close(small.to_dense() @ vector, large.matmat(vector), **TOLERANCE)
    assert max(len(part) for _, part in small.metric.parts(small.roots.first, slice(0, 1), 120)) == 2


def test_rows_of_one_example_that_are_needed_together_are_refused_where_they_do_not_fit():
    operator = wide("squared_error", "20kB")
    with pytest.raises(OutOfMemoryError, match=r"one example has 60 gradients.*empirical_fisher"):
        next(operator.factor_examples())
