"""Every solver keeps the contract, and so does one written outside, also where layers are solved apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wherefrom
from wherefrom.curvature.kronecker import BlockInverse, KroneckerCurvature, kronecker_inverses
from wherefrom.gradients.projections import Rademacher
from wherefrom.influence import resolve_measurement
from wherefrom.linalg import LinearOperator
from wherefrom.solvers import (
    CG,
    EKFAC,
    KFAC,
    BlockDiagonal,
    Exact,
    LiSSA,
    Nystrom,
    PreparedSolver,
    Projected,
    RelativeDamping,
    Solution,
    Solver,
    solution_from,
)
from wherefrom.solvers.names import SOLVER_NAMES, named_solver
from wherefrom.testing import check_solver


@pytest.mark.parametrize("name", [name for name in SOLVER_NAMES if name != "auto"])
def test_every_solver_by_its_name(name):
    operator = check_solver(Exact()).prepared.operator
    check_solver(named_solver(name, operator))


@pytest.mark.parametrize(
    "solver",
    [
        Exact(space="dual"),
        CG(rtol=1e-2),
        CG(preconditioner=EKFAC()),
        CG(stop="scores"),
        EKFAC(score_rtol=0.0, probes=2),
        EKFAC(probes=0),
        KFAC(factored=True),
        LiSSA(depth=30),
        Nystrom(rank=5),
        Projected(Rademacher(20)),
        BlockDiagonal(),
    ],
    ids=lambda solver: "-".join(str(value) for value in solver.settings().values()),
)
def test_every_solver_with_other_options(solver):
    check_solver(solver)


@pytest.mark.parametrize("solver", [EKFAC(), BlockDiagonal(), CG(preconditioner=EKFAC())])
def test_damping_of_each_layer(solver):
    check_solver(solver, damping=RelativeDamping(0.3))


# Fifteen lines, as a user would write them: a solver of all parameters at once, and one of layers.


class Dense(Solver):
    name = "dense"

    def settings(self) -> dict[str, Any]:
        return {"solver": self.name}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        return PreparedDense(operator, float(torch.linalg.eigvalsh(operator.to_dense())[0]), False)


class PreparedDense(PreparedSolver):
    def solve(self, rhs: Tensor) -> Solution:
        x = torch.linalg.solve(self.operator.to_dense().to(rhs), rhs)
        return solution_from(self.operator, rhs, x)


class EvenLayers(EKFAC):
    """Each layer as a multiple of the identity: its mean eigenvalue."""

    name = "even_layers"

    def inverses(self, curvature: KroneckerCurvature, damping: dict[str, float]) -> list[BlockInverse]:
        return [
            replace(one, weights=torch.full_like(one.weights, float((1 / one.weights).mean()) ** -1))
            for one in kronecker_inverses(curvature, damping)
        ]


@pytest.mark.parametrize("solver", [Dense(), EvenLayers(probes=2)])
def test_one_written_outside_keeps_the_contract(solver):
    check_solver(solver)


def problem():
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    return model, (x[:24], torch.randint(3, (24,), generator=generator)), (x[24:], torch.zeros(6).long())


def test_one_written_outside_scores_layer_by_layer():
    """With relative damping by default, a plan, coverage, an error against the full curvature, and labels."""
    model, train, queries = problem()
    made = wherefrom.Influence(
        model, train, loss="cross_entropy", curvature="ggn", solver=EvenLayers(score_rtol=0.0), progress=False
    ).fit()
    scores = made.scores(queries)
    layers = [nn.utils.parameters_to_vector(layer.parameters()).numel() for layer in (model[0], model[2])]
    rows = made.train_gradients.rows(slice(0, 24))
    asked = made.measure_gradients(queries, resolve_measurement("loss", made.objective.loss))
    expected = torch.zeros(6, 24, dtype=torch.float64)
    for block in made.prepared.layers.blocks:
        index = block.index.reshape(-1)
        own = made.prepared.operator.to_dense()[index][:, index]
        expected += asked.rows(slice(0, 6))[:, index] @ rows[:, index].T / own.diagonal().mean()
    assert sum(layers) == rows.shape[1] and len(made.prepared.layers.blocks) == 2
    torch.testing.assert_close(scores.values, expected, rtol=1e-8, atol=1e-12)
    assert made.settings()["damping_per_block"] is not None and scores.plan["queries"] == 6
    assert scores.distance > 0 and bool(torch.isfinite(scores.error).all())
    assert [row.rule for row in made.coverage()] == ["linear", "linear"] and "6 queries" in made.explain(
        queries
    )
    labels = made.labels(queries)
    assert bool(torch.isfinite(labels.errors["harm"]).all())  # an error beside each, by layers too


def test_one_written_outside_for_all_parameters_scores_as_exactly_as_the_exact_one():
    model, train, queries = problem()
    options = {"loss": "cross_entropy", "curvature": "ggn", "damping": 0.05, "progress": False}
    found = wherefrom.Influence(model, train, solver=Dense(), **options).fit().scores(queries, refine=2)
    exact = wherefrom.Influence(model, train, solver=Exact(), **options).fit().scores(queries)
    torch.testing.assert_close(found.values, exact.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [CG(rtol=1e-5), Exact(), EKFAC()], ids=["cg", "exact", "ekfac"])
def test_small_gradients_keep_their_digits_with_and_without_errors(solver):
    """Squares of 1e-25 are no numbers of float32: every way to a solution is at unit size."""
    model, (x, y), _ = problem()
    made = wherefrom.Influence(
        model.float(),
        (x.float(), y),
        loss="cross_entropy",
        curvature="ggn",
        damping=0.1,
        solver=solver,
        progress=False,
    ).fit()
    rhs = made.train_gradients.rows(slice(0, 3)).T
    plain = made.solve(rhs).x
    for use in (made.solve, made.apply):
        torch.testing.assert_close(use(rhs * 1e-25).x * 1e25, plain, rtol=1e-3, atol=1e-5)


def test_what_states_no_error_pays_for_none(monkeypatch):
    """With block inverses an error takes products with the full curvature; a solution alone takes none."""
    model, train, queries = problem()
    options = {"loss": "cross_entropy", "curvature": "ggn", "solver": EKFAC(), "progress": False}
    made = wherefrom.Influence(model, train, **options).fit()
    calls = []
    product = type(made.prepared.operator).matmat
    monkeypatch.setattr(
        type(made.prepared.operator), "matmat", lambda self, v: (calls.append(1), product(self, v))[1]
    )
    made.relabel_scores(queries)
    made.input_influence(queries)
    made.parameter_influence([0, 3])
    assert calls == []
    made.remove([0]).change(queries)
    assert calls


@pytest.mark.parametrize(
    "solver", [EKFAC(probes=1), KFAC(probes=1), EvenLayers(probes=1)], ids=["e", "k", "even"]
)
def test_errors_of_changes_and_of_harm_have_the_size_of_the_true_ones(solver):
    """Against the full curvature with the same damping, which is what the error is of."""
    model, train, queries = problem()
    options = {"loss": "cross_entropy", "curvature": "ggn", "damping": 0.05, "progress": False}
    found = wherefrom.Influence(model, train, solver=solver, **options).fit()
    exact = wherefrom.Influence(model, train, solver=Exact(), **options).fit()
    true, expected = [], []
    for i in range(6):
        one = found.remove([i]).change(queries, order="first")
        other = exact.remove([i]).change(queries, order="first")
        true.append(one.values - other.values)
        expected.append(one.error)
    labels, truth = found.labels(queries), exact.labels(queries)
    for off, error in (
        (torch.cat(true), torch.cat(expected)),
        (labels.signals["harm"] - truth.signals["harm"], labels.errors["harm"]),
    ):
        ratio = float(off.double().norm() / error.double().norm())
        assert 1 / 3 < ratio < 3
    unknown = wherefrom.Influence(model, train, solver=EKFAC(probes=0), **options).fit()
    assert bool(torch.isinf(unknown.remove([0]).change(queries).error).all())


class Wrong(Dense):
    """Breaks a promise."""

    def __init__(self, fault: str):
        self.fault = fault

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        made = PreparedWrong(operator, float(torch.linalg.eigvalsh(operator.to_dense())[0]), True)
        made.fault = self.fault
        if self.fault == "bound":
            made.lower_bound *= 2
        return made


class PreparedWrong(PreparedDense):
    fault = ""

    def solve(self, rhs: Tensor) -> Solution:
        solution = super().solve(rhs)
        if self.fault == "error":
            return solution_from(self.operator, rhs, 1.1 * solution.x)
        if self.fault == "residual":
            return replace(solution, residual_norm=solution.residual_norm + 1)
        if self.fault == "zero":
            return solution_from(self.operator, rhs, solution.x + 1e-3)
        if self.fault == "converged":
            return replace(solution, converged=~solution.converged)
        if self.fault == "chance":
            return solution_from(
                self.operator, rhs, solution.x * (1 + 1e-12 * torch.rand(rhs.shape[1], dtype=rhs.dtype))
            )
        return solution

    def apply(self, rhs: Tensor) -> Solution:
        solution = self.solve(rhs)
        return replace(solution, x=2 * solution.x) if self.fault == "apply" else solution


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("error", "true error"),
        ("residual", "residual_norm"),
        ("zero", "for zero is not zero"),
        ("converged", "no reason given"),
        ("chance", "same seed"),
        ("apply", "apply"),
        ("bound", "said to be proven"),
    ],
)
def test_a_broken_promise_is_found(fault, words):
    with pytest.raises(AssertionError, match=words):
        check_solver(Wrong(fault))
