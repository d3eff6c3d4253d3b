"""DataInf: the paper's formula, its layers, what is known of its error, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.solvers.plain_operators import Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.curvature import choose_curvature
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import GradientEngine
from wherefrom.gradients.projections import Gaussian
from wherefrom.linalg import DenseOperator, DiagonalOperator, split_diagonal
from wherefrom.losses import CustomLoss
from wherefrom.solvers import CG, DataInf, Nystrom, Projected
from wherefrom.task import Objective

N, P = 30, 8


def swapped(rows: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """The mean of `(D + F_iF_iᵀ)⁻¹` for `rows = F_iᵀ`, `(n, r, p)`, by dense inverses."""
    return torch.stack([torch.linalg.inv(torch.diag(diagonal) + row.T @ row) for row in rows]).mean(0)


def network(curvature: str = "ggn"):
    """A two-layer network's curvature, and dense per-example roots of it from autograd."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    x, y = gaussian(12, 4), torch.arange(12) % 3
    objective = Objective(model, (x, y), loss="cross_entropy")
    chosen = choose_curvature(GradientEngine(objective), curvature)
    parameters = dict(model.named_parameters())

    def outputs(values):
        return torch.func.functional_call(model, values, (x,))

    jacobians = torch.func.jacrev(outputs)({k: v.detach() for k, v in parameters.items()})
    jacobian = torch.cat([jacobians[name].flatten(2) for name in parameters], dim=2)  # (n, c, p)
    probabilities = outputs(parameters).softmax(1).detach()
    if curvature == "empirical_fisher":
        slopes = probabilities - nn.functional.one_hot(y, 3)
        return chosen.operator, torch.einsum("nc,ncp->np", slopes, jacobian)[:, None]
    weights = probabilities.sqrt()[:, :, None] * (torch.eye(3).double() - probabilities[:, None])
    return chosen.operator, torch.einsum("nrc,ncp->nrp", weights, jacobian)


@given(seed=st.integers(0, 10_000), damping=st.floats(1e-3, 10))
@settings(max_examples=30)
def test_it_is_the_mean_of_the_inverses(seed, damping):
    rows = gaussian(N, P, seed)
    operator = Gram(rows).damped(damping)
    rhs = gaussian(P, 3, seed + 1)
    solution = DataInf().prepare(operator).solve(rhs)
    expected = swapped(rows[:, None], torch.full((P,), damping, dtype=torch.float64)) @ rhs
    torch.testing.assert_close(solution.x, expected, rtol=1e-9, atol=1e-12)
    residual = rhs - operator.to_dense() @ solution.x if damping else rhs
    torch.testing.assert_close(solution.residual_norm, residual.norm(dim=0))
    assert bool(solution.converged.all()) and solution.reason == ""


def test_it_is_equation_5_of_the_paper():
    """`(1/λ)(v − (1/n) Σ g_i (g_iᵀv)/(λ + ‖g_i‖²))` for one block."""
    rows, damping = gaussian(N, P), 0.7
    v = gaussian(P, 1, seed=4)
    by_hand = v.clone()
    for g in rows[:, :, None]:
        by_hand -= g * (g.T @ v) / (damping + g.square().sum()) / N
    solution = DataInf().prepare(Gram(rows).damped(damping)).solve(v)
    torch.testing.assert_close(solution.x, by_hand / damping)


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
def test_a_network_by_modules_and_as_a_whole(curvature):
    operator, roots = network(curvature)
    p = operator.size
    diagonal = torch.full((p,), 0.05, dtype=torch.float64)
    rhs = gaussian(p, 2)
    whole = DataInf("all").prepare(operator.damped(0.05)).solve(rhs).x
    torch.testing.assert_close(whole, swapped(roots, diagonal) @ rhs)
    first = 4 * 3 + 3
    prepared = DataInf().prepare(operator.damped(0.05))
    blocks = [slice(0, first), slice(first, p)]
    expected = torch.cat([swapped(roots[:, :, b], diagonal[b]) @ rhs[b] for b in blocks])
    torch.testing.assert_close(prepared.solve(rhs).x, expected)
    assert prepared.notes["layers"] == 2
    json.dumps(prepared.notes)


def test_the_operators_roots_are_those_of_the_curvature():
    operator, roots = network()
    factor = split_diagonal(operator)[0][0]
    found = torch.cat(list(factor.factor_examples()))
    dense = torch.einsum("nrp,nrq->pq", found, found) / len(found)
    torch.testing.assert_close(dense, torch.einsum("nrp,nrq->pq", roots, roots) / len(roots))
    assert list(factor.layers) == ["0", "2"]


@given(seed=st.integers(0, 10_000), damping=st.floats(1e-3, 10))
@settings(max_examples=30)
def test_it_never_falls_below_the_inverse(seed, damping):
    """The inverse is operator convex: the mean of inverses is above the inverse of the mean."""
    rows = gaussian(N, P, seed)
    operator = Gram(rows).damped(damping)
    inverse = DataInf().prepare(operator).as_preconditioner().to_dense()
    left = torch.linalg.eigvalsh(inverse - torch.linalg.inv(operator.to_dense()))
    assert float(left[0]) >= -1e-10 * float(left[-1].abs())


@pytest.mark.parametrize("condition", [3, 30, 300])
def test_the_estimated_error_of_scores_is_of_the_right_size(condition):
    rows = gaussian(100, 40) * torch.arange(1, 41, dtype=torch.float64) ** -0.7
    damping = float(torch.linalg.eigvalsh(rows.T @ rows / 100)[-1]) / condition
    operator = Gram(rows).damped(damping)
    rhs = rows[:6].T
    prepared = DataInf().prepare(operator)
    solution = prepared.solve(rhs)
    error = (rows @ (solution.x - torch.linalg.solve(operator.to_dense(), rhs))).abs()
    estimate = torch.einsum("pu,rpk->ruk", rows.T, solution.error_directions).norm(dim=0)
    assert 1 / 3 <= float((estimate / error).median()) <= 3
    limit = rows.norm(dim=1)[:, None] * (solution.residual_norm / prepared.lower_bound)
    assert prepared.lower_bound_proven and bool((error <= limit).all())


def test_it_may_precondition():
    rows = gaussian(100, P) * torch.logspace(1, -1, P, dtype=torch.float64)
    operator = Gram(rows).damped(0.01)
    rhs = gaussian(P, 2)
    solution = CG(rtol=1e-8, preconditioner=DataInf()).prepare(operator).solve(rhs)
    torch.testing.assert_close(solution.x, torch.linalg.solve(operator.to_dense(), rhs), rtol=1e-5, atol=1e-5)


def test_float32_and_uneven_damping():
    rows = gaussian(N, P)
    diagonal = torch.linspace(0.1, 2, P, dtype=torch.float64)
    rhs = gaussian(P, 2)
    expected = swapped(rows[:, None], diagonal) @ rhs
    operator = Gram(rows.float()) + DiagonalOperator(diagonal.float())
    solution = DataInf().prepare(operator).solve(rhs.float())
    torch.testing.assert_close(solution.x.double(), expected, rtol=1e-4, atol=1e-5)
    zero = DataInf().prepare(operator).solve(torch.zeros(P, 2))
    assert float(zero.x.norm()) == 0.0 and bool(torch.isfinite(zero.error_directions).all())


def test_other_curvatures_are_refused():
    for operator in (
        DenseOperator(with_spectrum([1.0, 2.0]), 0.0).damped(1.0),
        Gram(gaussian(5, 4)).damped(0.0),
        Gram(gaussian(5, 4)) + DenseOperator(with_spectrum([1.0, 1.0, 2.0, 2.0]), 0.0).damped(1.0),
    ):
        with pytest.raises(UnsupportedError, match=r"DataInf needs .*curvature='ggn' with damping > 0"):
            DataInf().prepare(operator)


def test_a_loss_that_is_not_declared_convex_is_named():
    model = torch.nn.Linear(3, 2)
    data = (gaussian(6, 3).float(), gaussian(6, 2, seed=1).float())
    for convex in (False, True):
        loss = CustomLoss(lambda outputs, targets: (outputs - targets).cosh().log().sum(1), convex=convex)
        operator = choose_curvature(GradientEngine(Objective(model, data, loss=loss)), "ggn").operator
        for solver in (DataInf(), Nystrom(), Projected(Gaussian(40))):
            if convex:
                solver.prepare(operator.damped(0.1))
                with pytest.raises(UnsupportedError, match=r"found 8 of 8 parameters without either"):
                    solver.prepare(operator)
                continue
            with pytest.raises(UnsupportedError, match=r"found a loss that is not known to be convex"):
                solver.prepare(operator.damped(0.1))


def test_unknown_layers_are_refused_and_settings_are_json():
    with as_a_user(), pytest.raises(InputError, match="layers='blocks'"):
        DataInf("blocks")
    assert json.loads(json.dumps(DataInf("all").settings())) == {"solver": "datainf", "layers": "all"}
