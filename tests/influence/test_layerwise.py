"""Scores of the solvers that treat layers apart, against the dense damped approximation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import wherefrom
from tests.problems import PROBLEMS, N, Problem, labels, normal
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.solvers import PreparedBlocks

# Not every loss is a likelihood that labels could be drawn from: the exact output curvature serves all.
SOLVERS = {
    "ekfac": lambda: wherefrom.EKFAC("exact", score_rtol=0.0, probes=0),
    "kfac": lambda: wherefrom.KFAC("exact", score_rtol=0.0, probes=0),
    "kfac factored": lambda: wherefrom.KFAC("exact", factored=True, score_rtol=0.0, probes=0),
    "diagonal": lambda: wherefrom.Diagonal("exact", score_rtol=0.0, probes=0),
    "identity": lambda: wherefrom.Identity(),
}


def fitted(problem: Problem, solver: wherefrom.Solver, **options: object) -> wherefrom.Influence:
    return wherefrom.Influence(
        problem.model,
        problem.data,
        loss=problem.loss,
        solver=solver,
        progress=False,
        **{"curvature": "ggn", "damping": 0.05, **problem.options, **options},
    ).fit()


def dense_inverse(influence: wherefrom.Influence) -> Tensor:
    """`M⁻¹` inverted as a matrix, from bases, eigenvalues and damping."""
    prepared = _prepared(influence)
    whole = torch.zeros(prepared.operator.size, prepared.operator.size, dtype=torch.float64)
    for position, block in enumerate(prepared.layers.blocks):
        index = block.index.reshape(-1)
        if prepared.curvature is None:
            whole[index, index] = 1.0
            continue
        basis, values = prepared.curvature.bases[position], prepared.curvature.eigenvalues[position]
        amount = prepared.damping[block.name]
        g, o, i = block.shape
        for group in range(g):
            left = torch.eye(o).double() if basis.left is None else basis.left[group]
            right = torch.eye(i).double() if basis.right is None else basis.right[group]
            own = block.index[group].reshape(-1)
            if getattr(influence.solver, "factored", False):
                a = right @ torch.diag(basis.right_values[group]) @ right.T
                b = left @ torch.diag(basis.left_values[group]) @ left.T
                # Means over all groups.
                ratio = float(basis.right_values.mean()) / max(float(basis.left_values.mean()), 1e-300)
                pi = max(ratio, 1e-12) ** 0.5
                root = amount**0.5
                matrix = torch.kron(
                    b + root / pi * torch.eye(o).double(), a + root * pi * torch.eye(i).double()
                )
            else:
                q = torch.kron(left.contiguous(), right.contiguous())
                matrix = q @ torch.diag(values[group].reshape(-1)) @ q.T
                matrix = matrix + amount * torch.eye(o * i).double()
            whole[own[:, None], own] = torch.linalg.inv(matrix)
    return whole


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_scores_are_those_of_the_dense_approximation(name: str, solver: str) -> None:
    problem = PROBLEMS[name]()
    influence = fitted(problem, SOLVERS[solver]())
    inverse, rows = dense_inverse(influence), problem.dense().gradients().detach()
    expected = rows @ inverse @ rows.T
    scores = influence.scores(problem.data)
    atol = 1e-10 * float(expected.abs().max())
    torch.testing.assert_close(torch.as_tensor(scores.values), expected, rtol=1e-8, atol=atol)
    assert bool(torch.isinf(torch.as_tensor(scores.bound)).all()) and not scores.bound_proven
    own = influence.self_scores()
    torch.testing.assert_close(torch.as_tensor(own.values), expected.diagonal(), rtol=1e-8, atol=atol)
    assert bool((torch.as_tensor(own.values) >= 0).all())


def network(seed: int = 7) -> Problem:
    problem = PROBLEMS["tanh_mlp"]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in problem.model.parameters():
            nn.init.normal_(parameter)
    return problem


def queries(count: int = 6) -> tuple[Tensor, Tensor]:
    return normal(count, 4, seed=11), labels(count, seed=12)


def test_distance_is_that_from_the_full_curvature() -> None:
    problem = network()
    influence = fitted(problem, wherefrom.EKFAC("exact", score_rtol=0.0, probes=N))
    scores = influence.scores(problem.data)
    rows = problem.dense().gradients().detach()
    damped = problem.dense().ggn() + 0.05 * torch.eye(rows.shape[1])
    full = rows @ torch.linalg.solve(damped, rows.T)
    values = torch.as_tensor(scores.values)
    true = float((values - full).norm() / values.norm())
    assert scores.distance is not None
    assert 0.5 * true <= scores.distance <= 2 * true and true > 0.01
    # An expected error in proportion to each score, and a fiftieth of a typical one at least.
    estimate, error = torch.as_tensor(scores.error), (values - full).abs()
    assert float((error <= 3 * estimate).double().mean()) > 0.8
    assert 0.2 < float((estimate / error).median()) < 5
    sizes = values.square().mean(1, keepdim=True).sqrt()
    expected = scores.distance * torch.hypot(values.abs(), 0.02 * sizes)
    torch.testing.assert_close(estimate, expected, rtol=1e-6, atol=0.0)
    solution = dense_inverse(influence) @ rows.T
    residual = (rows.T - damped @ solution).norm(dim=0) / rows.norm(dim=1)
    found = torch.as_tensor(scores.relative_residual)
    torch.testing.assert_close(found, residual.mean().expand(N), rtol=1e-6, atol=0.0)


def test_one_linear_layer_is_close_to_the_full_curvature() -> None:
    problem = PROBLEMS["linear_head"]()
    near = fitted(problem, wherefrom.EKFAC("exact", score_rtol=0.0)).scores(problem.data).distance
    problem = network()
    far = fitted(problem, wherefrom.Identity()).scores(problem.data)
    assert near is not None and near < 0.3
    # The identity is a baseline, not an approximation: nothing is said of its error.
    assert bool(torch.isinf(torch.as_tensor(far.error)).all())


def test_without_probes_nothing_is_said() -> None:
    scores = fitted(network(), SOLVERS["ekfac"]()).scores(queries())
    assert bool(torch.isinf(torch.as_tensor(scores.error)).all())
    assert bool(torch.isnan(torch.as_tensor(scores.relative_residual)).all())


def test_an_approximate_contraction_is_part_of_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a network of this size an expansion saves less than it takes to fit.
    monkeypatch.setattr("wherefrom.solvers.contraction.planner._EXPANSION_SECONDS", 0.0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    x, y = normal(300, 40), labels(300)
    problem = Problem(model, (x, y), "cross_entropy", lambda m: m(x), lambda f: f.sum(1))
    rough = fitted(problem, wherefrom.EKFAC("exact", score_rtol=0.3, probes=2)).scores((x, y))
    plan = rough.plan
    assert 0 < plan["measured_error"] <= 0.3 and {block["method"] for block in plan["blocks"]} >= {"low rank"}
    exact = fitted(problem, wherefrom.EKFAC("exact", score_rtol=0.0, probes=2)).scores((x, y))
    values = torch.as_tensor(rough.values)
    sizes = values.square().mean(1, keepdim=True).sqrt()
    distance = rough.distance
    even = math.hypot(0.02 * distance, plan["measured_error"])
    expected = torch.hypot(distance * values.abs(), even * sizes)
    torch.testing.assert_close(torch.as_tensor(rough.error), expected, rtol=1e-6, atol=0.0)
    off = torch.as_tensor(rough.values) - torch.as_tensor(exact.values)
    errors = off.norm(dim=1) / torch.as_tensor(exact.values).norm(dim=1)
    assert float(errors.square().mean().sqrt()) <= 0.3


def test_other_measurements() -> None:
    problem, x = network(), queries()[0]
    influence = fitted(problem, SOLVERS["ekfac"]())
    made = influence.scores(
        (x, torch.zeros(len(x), dtype=torch.long)),
        measurement=lambda outputs, targets: outputs[:, 0] - outputs[:, 1].square(),
    )
    rows = []
    for one in x:
        out = problem.model(one[None])[0]
        gradients = torch.autograd.grad(out[0] - out[1].square(), list(problem.model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    expected = torch.stack(rows) @ dense_inverse(influence) @ problem.dense().gradients().detach().T
    torch.testing.assert_close(torch.as_tensor(made.values), expected, rtol=1e-8, atol=1e-10)


def test_damping_by_layer_is_a_tenth_of_its_mean_eigenvalue() -> None:
    influence = fitted(network(), SOLVERS["ekfac"](), damping="auto")
    prepared = _prepared(influence)
    assert prepared.curvature is not None
    for block, values in zip(prepared.curvature.blocks, prepared.curvature.eigenvalues):
        assert prepared.damping[block.name] == pytest.approx(0.1 * float(values.mean()), rel=1e-9)


def test_self_scores_of_some() -> None:
    influence = fitted(network(), SOLVERS["ekfac"]())
    everyone = torch.as_tensor(influence.self_scores().values)
    some = influence.self_scores([7, 2])
    torch.testing.assert_close(torch.as_tensor(some.values), everyone[[7, 2]])


@pytest.mark.parametrize("name", ["tanh_mlp", "convolution", "attention_tokens"])
def test_batches_and_memory_change_rounding_only(name: str) -> None:
    problem = PROBLEMS[name]()
    found = []
    for options in ({}, {"batch_size": 2}, {"memory": 2**15}):
        influence = fitted(problem, SOLVERS["ekfac"](), **options)
        scores, own = influence.scores(problem.data), influence.self_scores()
        found.append((torch.as_tensor(scores.values), torch.as_tensor(own.values)))
    for scores, own in found[1:]:
        torch.testing.assert_close(scores, found[0][0], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(own, found[0][1], rtol=1e-8, atol=1e-10)


def test_the_same_seed_gives_the_same_scores() -> None:
    def scores(seed: int) -> Tensor:
        solver = wherefrom.EKFAC("sampled", score_rtol=1e-2, probes=2)
        return torch.as_tensor(fitted(network(), solver, seed=seed).scores(queries()).values)

    assert torch.equal(scores(3), scores(3))
    assert not torch.equal(scores(3), scores(4))


def test_large_networks_are_treated_layer_by_layer() -> None:
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    x, y = normal(200, 64).float(), labels(200, classes=10)
    influence = wherefrom.Influence(
        model, (x, y), loss="cross_entropy", curvature="ggn", memory=2**21, progress=False
    ).fit()
    settings = influence.settings()
    assert settings["solver"] == "ekfac" and "layer by layer" in settings["solver_reason"]
    assert bool(torch.isfinite(torch.as_tensor(influence.scores((x[:3], y[:3])).values)).all())


def test_refinement_is_refused() -> None:
    with pytest.raises(InputError, match=r"refine=2.*solver=CG"):
        fitted(network(), SOLVERS["ekfac"]()).scores(queries(), refine=2)


def test_plans_and_coverage() -> None:
    influence = fitted(network(), SOLVERS["kfac factored"]())
    told = influence.explain(queries())
    assert f"6 queries x {N} training examples" in told and "Exact up to rounding." in told
    assert [row.rule for row in influence.coverage()] == ["linear", "linear"]
    assert influence.scores(queries()).plan["queries"] == 6


def test_no_plan_for_solvers_of_all_layers_at_once() -> None:
    influence = fitted(network(), wherefrom.CG())
    for call in (lambda: influence.explain(queries()), influence.coverage):
        with pytest.raises(UnsupportedError, match="solver='cg' works on all parameters at once"):
            call()


def test_exact_blocks_have_a_coverage_but_no_plan() -> None:
    influence = fitted(network(), wherefrom.BlockDiagonal())
    assert [row.rule for row in influence.coverage()] == ["linear", "linear"]
    with pytest.raises(UnsupportedError, match=r"solver='block_diagonal' multiplies .*no plan to choose"):
        influence.explain(queries())


def _prepared(influence: wherefrom.Influence) -> PreparedBlocks:
    prepared = influence.prepared
    assert isinstance(prepared, PreparedBlocks)
    return prepared


@pytest.mark.parametrize("name", PROBLEMS)
def test_mean_and_typical_gradient_from_factors(name: str) -> None:
    problem = PROBLEMS[name]()
    check = fitted(problem, SOLVERS["ekfac"]()).minimum
    rows = problem.dense().gradients().detach()
    assert check.typical_gradient == pytest.approx(float(rows.square().sum(1).mean().sqrt()), rel=1e-9)
    assert check.gradient_norm == pytest.approx(float(rows.mean(0).norm()), rel=1e-9)
