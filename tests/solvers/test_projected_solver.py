"""The projected solver against dense solves: exact where nothing is lost, elsewhere as wrong as it says."""

from __future__ import annotations

import json

import pytest
import torch

from tests.problems import labels, linear_head, mlp, normal, tanh_mlp, token_head
from tests.solvers.plain_operators import Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom import Influence
from wherefrom.curvature import GaussNewtonOperator
from wherefrom.curvature.metrics import LossHessianMetric
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import GradientEngine
from wherefrom.gradients.projections import Gaussian, LoGra, Rademacher, SparseJL
from wherefrom.linalg import DenseOperator, DiagonalOperator, FactoredOperator
from wherefrom.solvers import Solution
from wherefrom.solvers.projected import Projected

P, M = 300, 60


def ggn(problem) -> GaussNewtonOperator:
    objective = problem.objective()
    return GaussNewtonOperator(GradientEngine(objective), LossHessianMetric(objective.loss))


def decaying() -> Gram:
    """Rows of about twenty directions."""
    return Gram(gaussian(M, M, 1) * torch.arange(1, M + 1) ** -0.7 @ gaussian(M, P, 2))


def estimate(solution: Solution, u: torch.Tensor) -> torch.Tensor:
    return torch.einsum("rpk,pu->ruk", solution.error_directions, u).norm(dim=0)


@pytest.mark.parametrize("build", [linear_head, tanh_mlp, token_head])
def test_a_projection_that_loses_nothing_is_exact(build):
    operator = ggn(build()).damped(0.05)
    rhs = gaussian(operator.size, 4)
    prepared = Projected(LoGra(1000, 1000, clip=True)).prepare(operator)
    solution = prepared.solve(rhs)
    expected = torch.linalg.solve(operator.to_dense(), rhs)
    torch.testing.assert_close(solution.x, expected, rtol=1e-9, atol=1e-9)
    assert prepared.notes["lossless"] and prepared.notes["k"] == operator.size
    assert bool(solution.converged.all()) and float(solution.relative_residual.max()) < 1e-9
    assert float(solution.error_directions.norm()) < 1e-8


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("kind", [Rademacher, Gaussian, SparseJL])
def test_it_is_the_formula(kind, constant):
    """`D^-½ Pᵀ (P D^-½ FFᵀ D^-½ Pᵀ/n + I)⁻¹ P D^-½`, for a constant diagonal `Pᵀ (P FFᵀ Pᵀ/n + λI)⁻¹ P`."""
    rows, k = gaussian(20, 30), 70
    diagonal = torch.full((30,), 0.3).double() if constant else torch.linspace(0.1, 2, 30).double()
    rhs = gaussian(30, 3, 5)
    solution = Projected(kind(k, 4)).prepare(Gram(rows) + DiagonalOperator(diagonal)).solve(rhs)
    p = kind(k, 4).bind(30).apply(torch.eye(30, dtype=torch.float64)).T
    if constant:
        inner = p @ (rows.T @ rows / 20) @ p.T + 0.3 * torch.eye(k)
        expected = p.T @ torch.linalg.solve(inner, p @ rhs)
    else:
        scale = diagonal.rsqrt()[:, None]
        inner = p @ (scale * (rows.T @ rows / 20) * scale.T) @ p.T + torch.eye(k)
        expected = scale * (p.T @ torch.linalg.solve(inner, p @ (scale * rhs)))
    torch.testing.assert_close(solution.x, expected, rtol=1e-9, atol=1e-10)
    dense = rows.T @ rows / 20 + torch.diag(diagonal)
    torch.testing.assert_close(solution.residual_norm, (rhs - dense @ expected).norm(dim=0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Rademacher, Gaussian, SparseJL])
def test_scores_converge_as_components_grow_and_err_as_estimated(kind):
    """Over seeds the root mean square error falls like `1/√k`, and the estimate agrees with it."""
    gram = decaying()
    operator = gram.damped(0.5)
    u, v = gram.factor_apply(gaussian(M, 12, 3)), gram.factor_apply(gaussian(M, 5, 4))
    truth = u.T @ torch.linalg.solve(operator.to_dense(), v)
    found = {}
    for k in (250, 1000):
        errors, estimates = [], []
        for seed in range(8):
            solution = Projected(kind(k, seed)).prepare(operator, seed=seed).solve(v)
            assert bool(solution.converged.all())
            errors.append(u.T @ solution.x - truth)
            estimates.append(estimate(solution, u))
        error, told = (float(torch.stack(part).square().mean().sqrt()) for part in (errors, estimates))
        assert 0.6 < told / error < 1.6
        found[k] = error / float(truth.square().mean().sqrt())
    assert found[1000] < 0.7 * found[250] and found[1000] < 0.3


def test_logra_on_a_network_errs_as_estimated():
    operator = ggn(tanh_mlp()).damped(0.5)
    factor = operator.terms[0]
    assert isinstance(factor, FactoredOperator)
    u, v = factor.factor_apply(gaussian(factor.rank, 8, 3)), factor.factor_apply(gaussian(factor.rank, 4, 4))
    truth = u.T @ torch.linalg.solve(operator.to_dense(), v)
    errors, estimates = [], []
    for seed in range(20):
        solution = Projected(LoGra(4, 4, seed, clip=True)).prepare(operator, seed=seed).solve(v)
        errors.append(u.T @ solution.x - truth)
        estimates.append(estimate(solution, u))
    error, told = (float(torch.stack(part).square().mean().sqrt()) for part in (errors, estimates))
    assert 0.4 < told / error < 2.5


def test_the_bound_of_the_residual_holds():
    gram = decaying()
    operator = gram.damped(0.5)
    u, v = gaussian(P, 6, 3), gram.factor_apply(gaussian(M, 4, 4))
    prepared = Projected(Rademacher(200)).prepare(operator)
    solution = prepared.solve(v)
    error = (u.T @ (solution.x - torch.linalg.solve(operator.to_dense(), v))).abs()
    assert prepared.lower_bound_proven and prepared.lower_bound == pytest.approx(0.5)
    bound = u.norm(dim=0)[:, None] * solution.residual_norm / prepared.lower_bound
    assert bool((error <= bound).all())


def test_too_few_components_for_the_curvature_are_reported():
    solution = Projected(Rademacher(20)).prepare(decaying().damped(1e-4)).solve(gaussian(P, 3))
    assert not bool(solution.converged.any())
    assert "of the 20 components" in solution.reason and "k=80" in solution.reason


def test_float32_agrees_with_float64():
    gram = decaying()
    narrow = Gram(gram.rows.float())
    rhs = gram.factor_apply(gaussian(M, 3))
    wide = Projected(Rademacher(400)).prepare(gram.damped(0.5)).solve(rhs)
    solution = Projected(Rademacher(400)).prepare(narrow.damped(0.5)).solve(rhs.float())
    assert solution.x.dtype == solution.error_directions.dtype == torch.float32
    assert float((solution.x - wide.x).norm() / wide.x.norm()) < 1e-4


def test_the_same_seed_gives_the_same_bits():
    operator, rhs = decaying().damped(0.5), gaussian(P, 3)
    first, again = (Projected(SparseJL(90, 2)).prepare(operator, seed=1).solve(rhs) for _ in range(2))
    assert torch.equal(first.x, again.x) and torch.equal(first.error_directions, again.error_directions)


def test_settings_and_notes_are_json_values():
    solver = Projected(LoGra(2, 2, 1, clip=True))
    prepared = solver.prepare(ggn(tanh_mlp()).damped(0.5))
    assert json.loads(json.dumps(solver.settings()))["projection"] == "logra"
    assert json.loads(json.dumps(prepared.notes))["k"] < prepared.notes["p"]


@pytest.mark.parametrize(
    "operator",
    [DenseOperator(with_spectrum([1.0, 2.0])), Gram(gaussian(5, 9)), DenseOperator(torch.eye(2)).damped(1.0)],
)
def test_curvature_without_a_factor_or_without_damping_is_refused(operator):
    with pytest.raises(UnsupportedError, match=r"solver Projected needs.*curvature='ggn' with damping > 0"):
        Projected(Rademacher(3)).prepare(operator)


def test_what_is_no_projection_is_refused():
    with as_a_user(), pytest.raises(InputError, match=r"projection=64: expected a Projection"):
        Projected(64)


def test_logra_without_layers_is_refused():
    with pytest.raises(InputError, match=r"LoGra projects each layer's matrix"):
        Projected(LoGra(2, 2)).prepare(decaying().damped(1.0))


def test_it_does_not_precondition():
    with pytest.raises(UnsupportedError, match="Projected cannot precondition"):
        Projected(Rademacher(30)).prepare(decaying().damped(1.0)).as_preconditioner()


def test_scores_of_a_network_carry_the_error():
    """Through the whole library: nothing lost gives the exact scores, a sketch its error beside them."""
    train, queries = (normal(20, 4), labels(20)), (normal(3, 4, seed=8), labels(3, seed=8))

    def scores(solver):
        fitted = Influence(mlp(), train, loss="cross_entropy", damping=0.1, solver=solver, progress=False)
        return fitted.fit().scores(queries)

    exact = scores("exact")
    whole = scores(Projected(LoGra(9, 9, clip=True)))
    torch.testing.assert_close(whole.values, exact.values, rtol=1e-8, atol=1e-10)
    sketch = scores(Projected(Rademacher(400)))
    assert bool(sketch.converged.all())
    error = (sketch.values - exact.values).abs()
    assert float((error <= 3 * sketch.error).double().mean()) > 0.8
    assert bool((error <= sketch.bound).all())
    assert sketch.settings["projection"] == "rademacher"
    assert sketch.settings["solver_notes"]["effective_dimension"] < 400
