"""Preconditioned mini-batch steps: converge to the dense answer, and know how far they are from it."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers.plain_operators import Counting, Gram, gaussian, with_spectrum
from tests.support import as_a_user
from wherefrom.errors import DivergenceError, InputError, NotPositiveDefiniteError, UnsupportedError
from wherefrom.linalg import DenseOperator, DiagonalOperator, LinearOperator
from wherefrom.solvers import CG, Astra, Exact, Nystrom
from wherefrom.solvers.pencil import pencil_spectrum

N, P = 400, 20
SCALE = torch.arange(1, P + 1, dtype=torch.float64) ** -0.5


class Mean(DenseOperator):
    """Every mini-batch is the whole: what is left is the deterministic recursion."""

    n_examples = N

    def sampled(self, indices):
        return self


def problem(
    damping: float = 0.05, seed: int = 0
) -> tuple[LinearOperator, torch.Tensor, LinearOperator, torch.Tensor]:
    """Operator, dense matrix, a preconditioner off by factors of up to two, right-hand sides."""
    rows = gaussian(N, P, seed) * SCALE
    dense = rows.T @ rows / N + damping * torch.eye(P, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(dense)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    rough = root @ with_spectrum(torch.logspace(-0.3, 0.3, P, dtype=torch.float64), seed + 1) @ root
    rhs = gaussian(P, 3, seed + 2) * SCALE[:, None]
    return Gram(rows).damped(damping), dense, DenseOperator(rough), rhs


def relative(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float((x - truth).norm() / truth.norm())


@pytest.mark.parametrize("seed", range(3))
def test_anchors_bring_it_to_the_answer(seed):
    operator, dense, rough, rhs = problem(seed=seed)
    truth = torch.linalg.solve(dense, rhs)
    errors = [
        relative(Astra(rough, anchors=anchors).prepare(operator, seed=seed).solve(rhs).x, truth)
        for anchors in (0, 1, 2, 3)
    ]
    assert errors[0] < 0.3 * relative(rough.matmat(rhs), truth)
    assert errors[1] < errors[0] and errors[2] < errors[1] / 5 and errors[3] < errors[2] / 5


@pytest.mark.parametrize("anchors", [0, 1])
@pytest.mark.parametrize("preconditioner", [Nystrom(rank=8), Exact()])
def test_solvers_precondition(anchors, preconditioner):
    operator, dense, _, rhs = problem()
    solution = Astra(preconditioner, anchors=anchors).prepare(operator).solve(rhs)
    assert bool(solution.converged.all()) and solution.reason == ""
    assert relative(solution.x, torch.linalg.solve(dense, rhs)) < 0.1
    torch.testing.assert_close(solution.residual_norm, (rhs - dense @ solution.x).norm(dim=0))


@pytest.mark.parametrize("anchors", [0, 1, 2])
def test_the_estimated_error_of_scores_is_of_the_right_size(anchors):
    ratios = []
    for seed in range(4):
        operator, dense, rough, rhs = problem(seed=seed)
        solution = Astra(rough, anchors=anchors).prepare(operator, seed=seed).solve(rhs)
        u = gaussian(P, 100, seed=9) * SCALE[:, None]
        error = (u.T @ (solution.x - torch.linalg.solve(dense, rhs))).abs()
        ratios.append(torch.einsum("pu,rpk->ruk", u, solution.error_directions).norm(dim=0) / error)
    assert 1 / 3 <= float(torch.cat(ratios).median()) <= 3


def test_the_standard_error_is_the_true_spread():
    operator, dense, rough, rhs = problem()
    runs, reported = [], []
    for seed in range(16):
        prepared = Astra(rough, anchors=0, steps=60).prepare(operator, seed=seed)
        runs.append(prepared.solve(rhs).x)
        reported.append(prepared.notes["standard_error"])
    spread = float(torch.stack(runs).std(0).norm() / torch.stack(runs).mean(0).norm())
    assert 0.7 < spread / (sum(reported) / 16) < 1.4
    bias = relative(torch.stack(runs).mean(0), torch.linalg.solve(dense, rhs))
    assert bias < 3 * spread / 4


@given(seed=st.integers(0, 1000), steps=st.integers(1, 8), batch_size=st.integers(1, 20))
@settings(max_examples=25)
def test_however_noisy_it_is_never_worse_than_the_preconditioners_answer_in_the_energy_norm(
    seed, steps, batch_size
):
    operator, dense, rough, rhs = problem(seed=seed)
    truth = torch.linalg.solve(dense, rhs)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return ((x - truth) * (dense @ (x - truth))).sum(0)

    solver = Astra(rough, steps=steps, batch_size=batch_size, repeats=1)
    reached = energy(solver.prepare(operator, seed=seed).solve(rhs).x)
    assert bool((reached <= energy(rough.matmat(rhs)) * (1 + 1e-9)).all())


def test_with_full_batches_only_the_bias_is_left_within_its_bound():
    _, dense, rough, rhs = problem()
    truth = torch.linalg.solve(dense, rhs)
    prepared = Astra(rough, anchors=0, repeats=1, bias=1e-3).prepare(Mean(dense, 0.05))
    assert prepared.notes["bias_bound"] <= 1e-3
    values, vectors = torch.linalg.eigh(rough.matrix)
    measure = vectors @ torch.diag(values.rsqrt()) @ vectors.T  # errors contract in the norm of M
    before, after = (
        float((measure @ (x - truth)).norm()) for x in (rough.matmat(rhs), prepared.solve(rhs).x)
    )
    assert after <= 1e-3 * before


def test_the_step_is_safe_for_every_mini_batch_seen():
    operator, _, rough, _ = problem()
    prepared = Astra(rough, batch_size=8).prepare(operator)
    root = torch.linalg.cholesky(rough.matrix)
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        sample = operator.sampled(torch.randint(N, (8,), generator=generator)).to_dense()
        assert prepared.step_size * float(torch.linalg.eigvalsh(root.T @ sample @ root)[-1]) < 2


def test_the_bound_is_that_of_the_damping():
    operator, dense, rough, rhs = problem()
    prepared = Astra(rough, steps=5).prepare(operator)
    solution = prepared.solve(rhs)
    assert prepared.lower_bound_proven and prepared.lower_bound == pytest.approx(0.05)
    error = (solution.x - torch.linalg.solve(dense, rhs)).norm(dim=0)
    assert bool((error <= solution.residual_norm / 0.05 * (1 + 1e-9)).all())


def test_full_products_are_as_few_as_said():
    operator, _, rough, rhs = problem()

    class Counted(Counting):
        n_examples = N

        def sampled(self, indices):
            return self.inner.sampled(indices)

    counting = Counted(operator)
    prepared = Astra(rough, steps=20, anchors=2).prepare(counting)
    counting.columns = 0
    prepared.solve(rhs)
    assert counting.columns <= 3 * (2 + 4)


def test_the_same_seed_gives_the_same_bits_and_zero_columns_stay_zero():
    operator, _, rough, rhs = problem()
    rhs[:, 1] = 0
    first, again, other = (Astra(rough, steps=10).prepare(operator, seed=s).solve(rhs) for s in (3, 3, 4))
    assert torch.equal(first.x, again.x) and not torch.equal(first.x, other.x)
    assert float(first.x[:, 1].norm()) == 0.0 and bool(torch.isfinite(first.error_directions).all())


def test_float32():
    operator, dense, rough, rhs = problem()
    rows = operator.terms[0].rows.float()
    solution = (
        Astra(DenseOperator(rough.matrix.float()), anchors=2)
        .prepare(Gram(rows).damped(0.05))
        .solve(rhs.float())
    )
    assert relative(solution.x.double(), torch.linalg.solve(dense, rhs)) < 1e-2


def test_a_step_that_is_too_large_diverges_with_advice():
    operator, _, rough, rhs = problem()
    with pytest.raises(DivergenceError, match=r"Astra diverged.*step_size=.*step_size=None.*batch_size"):
        Astra(rough, step_size=3.0, steps=400).prepare(operator).solve(rhs)


def test_a_limit_of_the_steps_that_is_reached_is_reported():
    operator, _, rough, rhs = problem()
    solution = Astra(rough, max_steps=12).prepare(operator).solve(rhs)
    assert not bool(solution.converged.any())
    assert "max_steps=12" in solution.reason and "preconditioner" in solution.reason


def test_preconditioners_that_cannot_serve_are_refused():
    operator, _, _, _ = problem()
    with as_a_user(), pytest.raises(InputError, match=r"preconditioner: found NoneType; expected a Solver"):
        Astra(None)
    with pytest.raises(UnsupportedError, match="CG cannot precondition"):
        Astra(CG()).prepare(operator)
    with pytest.raises(InputError, match=r"preconditioner.*positive definite"):
        Astra(DiagonalOperator(-torch.ones(P, dtype=torch.float64))).prepare(operator)
    with pytest.raises(InputError, match=r"preconditioner has size"):
        Astra(DiagonalOperator(torch.ones(3, dtype=torch.float64))).prepare(operator)


def test_indefinite_curvature_is_refused():
    matrix = with_spectrum([-0.5, 0.5, 2.0, 4.0])
    identity = DiagonalOperator(torch.ones(4, dtype=torch.float64))
    for bound in (float("-inf"), 0.1):  # the second stands for a promise that is broken
        with pytest.raises(
            NotPositiveDefiniteError, match=r"eigenvalue is -0\.5 or lower.*damping=0\.75"
        ) as caught:
            Astra(identity).prepare(Mean(matrix, bound))
        assert caught.value.damping > 0.5


def test_an_operator_without_examples_is_refused():
    identity = DiagonalOperator(torch.ones(2, dtype=torch.float64))
    with pytest.raises(InputError, match=r"mini-batches of training examples.*CG or Exact"):
        Astra(identity).prepare(DenseOperator(with_spectrum([1.0, 2.0])))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": "all"},
        {"steps": 0},
        {"steps": 1.5},
        {"repeats": 0},
        {"anchors": -1},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"bias": 1.0},
        {"max_steps": 0},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with as_a_user(), pytest.raises(InputError, match=next(iter(options))):
        Astra(Nystrom(), **options)


def test_settings_and_notes_are_json():
    operator, _, _, rhs = problem()
    solver = Astra(Nystrom(rank=5), steps=5)
    prepared = solver.prepare(operator)
    prepared.solve(rhs)
    json.dumps([solver.settings(), prepared.notes])
    assert solver.settings()["preconditioner"] == {"solver": "nystrom", "rank": 5}


@given(seed=st.integers(0, 1000), steps=st.integers(1, 25))
@settings(max_examples=25)
def test_ritz_values_of_a_pencil_lie_within_its_spectrum(seed, steps):
    _, dense, rough, _ = problem(seed=seed)
    root = torch.linalg.cholesky(rough.matrix)
    truth = torch.linalg.eigvalsh(root.T @ dense @ root)
    found = pencil_spectrum(DenseOperator(dense), rough, steps=steps, seed=seed)
    assert float(truth[0]) * (1 - 1e-9) <= found.smallest <= found.largest <= float(truth[-1]) * (1 + 1e-9)
    assert float((truth - found.largest).abs().min()) <= found.largest_residual + 1e-9
    if steps >= P:
        assert found.smallest == pytest.approx(float(truth[0]))
        assert found.largest == pytest.approx(float(truth[-1]))
