"""Scores against `∇mᵀ (C + λI)⁻¹ g` from dense float64 matrices, for every curvature and solver."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from tests.support import (
    Plain,
    class_margin,
    digits,
    logistic,
    seeded,
    small_conv,
    small_mlp,
    softmax_regression,
)
from wherefrom import CG, Exact, Influence, LiSSA, Measurement

DAMPING = 0.05
MAKERS = {"softmax regression": softmax_regression, "mlp": small_mlp, "conv": small_conv}
CURVATURES = ["hessian", "ggn", "fisher", "empirical_fisher"]
SOLVERS = {
    "cholesky": Exact(space="primal"),
    "eigh": Exact("eigh", space="primal"),
    "dual": Exact(space="dual"),
    "cg": CG(rtol=1e-10),
}


@functools.lru_cache
def trained(name: str) -> Plain:
    return MAKERS[name]()


@functools.lru_cache
def dense(name: str, curvature: str) -> Tensor:
    return trained(name).curvature(curvature)


def queries(plain: Plain, count: int = 5) -> tuple[Tensor, Tensor]:
    classes = plain.outputs(plain.theta).shape[1]
    return digits(count, start=400, classes=classes, pool=1 if plain.x.shape[1] == 64 else 2)


def influence(plain: Plain, **options) -> Influence:
    options = {"loss": "cross_entropy", "weight_decay": float(plain.decay[0]), "damping": DAMPING, **options}
    return Influence(plain.model, (plain.x, plain.y), progress=False, **options).fit()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", MAKERS)
def test_scores_equal_the_dense_formula(name, curvature, solver):
    if solver == "dual" and curvature == "hessian" and name != "softmax regression":
        pytest.skip("a network's Hessian has no factor")
    plain = trained(name)
    scores = influence(plain, curvature=curvature, solver=SOLVERS[solver]).scores(queries(plain))
    expected = plain.scores(queries(plain), dense(name, curvature), DAMPING)
    error = (scores.values - expected).abs()
    assert float(error.max() / expected.abs().max()) < 1e-8
    assert bool((error <= scores.bound).all())
    assert bool(scores.converged.all())


@pytest.mark.parametrize("curvature", CURVATURES)
def test_lissa_within_its_own_error(curvature):
    plain = trained("softmax regression")
    fitted = influence(plain, curvature=curvature, solver=LiSSA(repeats=4, batch_size=32), damping=0.2)
    scores = fitted.scores(queries(plain))
    expected = plain.scores(queries(plain), dense("softmax regression", curvature), 0.2)
    error = (scores.values - expected).abs()
    assert bool((error <= scores.bound).all())
    assert 1 / 5 <= float((scores.error / error).median()) <= 5
    assert float(error.norm() / expected.norm()) < 0.15


def test_sampled_labels_approach_the_fisher():
    """More labels drawn for each example bring the scores closer to those of the exact expectation."""
    plain = trained("conv")
    expected = plain.scores(queries(plain), dense("conv", "fisher"), DAMPING)
    errors = []
    for draws in (1, 25):
        sampled = influence(plain, curvature="sampled_fisher", solver=SOLVERS["cholesky"], fisher_draws=draws)
        errors.append(float((sampled.scores(queries(plain)).values - expected).norm() / expected.norm()))
    assert errors[1] < errors[0] / 2 and errors[1] < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_the_bound_holds_in_the_dtype_of_the_computation(name, dtype):
    plain = trained(name)
    expected = plain.scores(queries(plain), dense(name, "ggn"), DAMPING)
    for solver in (Exact(space="primal"), CG(rtol=1e-2), CG(rtol=1e-5)):
        scores = influence(plain, curvature="ggn", solver=solver, dtype=dtype).scores(queries(plain))
        assert scores.values.dtype == dtype
        assert bool(((scores.values.double() - expected).abs() <= scores.bound.double()).all())


def test_binary_logistic_regression_in_closed_form():
    """`I_up,loss = −y_t y σ(−y_t θᵀx_t) σ(−y θᵀx) x_tᵀ H⁻¹ x` (Koh & Liang 2017), minus a score."""
    x, labels = digits(100, classes=2, pool=2)
    y = 2.0 * labels - 1
    plain = Plain(seeded(lambda: nn.Linear(16, 1, bias=False)), logistic, (x, y), 0.05).trained()
    xq, yq = digits(7, start=150, classes=2, pool=2)
    yq = 2.0 * yq - 1
    theta = plain.theta
    margin, query_margin = x @ theta, xq @ theta
    weight = torch.sigmoid(margin) * torch.sigmoid(-margin)
    hessian = (x * weight[:, None]).T @ x / 100 + 0.05 * torch.eye(16, dtype=torch.float64)
    factor_train = y * torch.sigmoid(-y * margin)
    factor_query = yq * torch.sigmoid(-yq * query_margin)
    upweighting = -factor_query[:, None] * factor_train * (xq @ torch.linalg.solve(hessian, x.T))
    scores = influence(plain, loss="logistic", damping="auto").scores((xq, yq))
    assert scores.settings["damping"] == 0.0
    torch.testing.assert_close(scores.values, -upweighting, rtol=1e-9, atol=1e-12)


def class_logit(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.gather(1, targets[:, None])[:, 0]


def squared_first(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0] ** 2


@pytest.mark.parametrize(
    ("measurement", "plain_measure", "higher"),
    [
        ("margin", class_margin, True),
        ("logit", class_logit, True),
        (squared_first, squared_first, False),
        (Measurement("mine", squared_first, True), squared_first, True),
    ],
)
@pytest.mark.parametrize("name", MAKERS)
def test_measurements(name, measurement, plain_measure, higher):
    plain = trained(name)
    scores = influence(plain, curvature="ggn").scores(queries(plain), measurement)
    expected = plain.scores(queries(plain), dense(name, "ggn"), DAMPING, plain_measure)
    torch.testing.assert_close(scores.values, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    assert scores.higher_is_better == higher


@pytest.mark.parametrize("name", MAKERS)
def test_results_do_not_depend_on_the_batch_size(name):
    plain = trained(name)
    whole = influence(plain, curvature="ggn", solver=CG(rtol=1e-10)).scores(queries(plain)).values
    for batch_size in (1, 7):
        pieces = influence(plain, curvature="ggn", solver=CG(rtol=1e-10), batch_size=batch_size)
        torch.testing.assert_close(pieces.scores(queries(plain)).values, whole, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("solver", [Exact(), CG(), LiSSA(repeats=2, batch_size=20, max_depth=200)])
def test_the_same_seed_gives_the_same_bits(solver):
    plain = trained("mlp")
    first, again = (
        influence(plain, curvature="ggn", solver=solver, seed=5).scores(queries(plain)) for _ in range(2)
    )
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.bound, again.bound)
    assert torch.equal(first.error, again.error)


def test_a_small_memory_budget_changes_nothing_but_rounding():
    plain = trained("mlp")
    whole = influence(plain, curvature="ggn", solver=CG(rtol=1e-10)).scores(queries(plain)).values
    tight = influence(plain, curvature="ggn", solver=CG(rtol=1e-10), memory="50kB")
    assert tight.pairing.block_size() < len(queries(plain)[0])
    torch.testing.assert_close(tight.scores(queries(plain)).values, whole, rtol=1e-6, atol=1e-9)


def test_refined_scores_are_closer_and_their_bound_holds():
    plain = trained("mlp")
    expected = plain.scores(queries(plain), dense("mlp", "ggn"), DAMPING)
    fitted = influence(plain, curvature="ggn", solver=CG(rtol=1e-2))
    rough, refined = fitted.scores(queries(plain)), fitted.scores(queries(plain), refine=4)
    changed = refined.values != rough.values
    assert bool((changed.sum(1) >= 8).all())
    # The four highest and four lowest of each query are always among those corrected.
    for q in range(len(rough)):
        order = rough.values[q].argsort()
        assert bool(changed[q, order[:4]].all()) and bool(changed[q, order[-4:]].all())
    before, after = (rough.values - expected).abs(), (refined.values - expected).abs()
    assert float(after[changed].median()) < 0.1 * float(before[changed].median())
    assert bool((after <= refined.bound).all())
    assert bool((refined.bound[changed] < rough.bound[changed]).all())
    assert 1 / 5 <= float((refined.error / after)[changed].median()) <= 5
