"""LiSSA against dense inverses: right within its standard error, damped in the curvature's units."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.plain_operators import Gram, gaussian, with_spectrum
from wherefrom.errors import DivergenceError, InputError, NotPositiveDefiniteError
from wherefrom.linalg import DenseOperator, DiagonalOperator, LinearOperator
from wherefrom.solvers import LiSSA

N, P = 80, 6


def problem(damping: float = 0.3) -> tuple[LinearOperator, torch.Tensor, torch.Tensor]:
    """Operator, its dense matrix, and right-hand sides."""
    rows = gaussian(N, P, seed=1) * torch.linspace(0.5, 1.5, P).double()
    dense = rows.T @ rows / N + damping * torch.eye(P, dtype=torch.float64)
    return Gram(rows).damped(damping), dense, gaussian(P, 3, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_lies_within_its_standard_error(seed):
    operator, dense, rhs = problem()
    solution = LiSSA(repeats=8, batch_size=10, bias=1e-5).prepare(operator, seed=seed).solve(rhs)
    error = solution.x - torch.linalg.solve(dense, rhs)
    standard_error = solution.error_directions.norm(dim=0)
    z = error / standard_error
    assert bool(solution.converged.all())
    assert float(z.square().mean().sqrt()) < 2.5  # 18 correlated t-values with 7 degrees of freedom
    assert float(error.norm() / solution.x.norm()) < 0.2


def test_full_batches_make_it_the_neumann_series():
    """With the mean operator in every draw only the bias is left, below what was asked for."""
    _, dense, rhs = problem()

    class Mean(DenseOperator):
        n_examples = N

    solution = LiSSA(repeats=1, bias=1e-6).prepare(Mean(dense, lower_bound=0.3)).solve(rhs)
    expected = torch.linalg.solve(dense, rhs)
    assert float((solution.x - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("scale", [10.0, 40.0])
def test_damping_is_in_the_units_of_the_curvature_whatever_the_scale(scale):
    """Implementations that damp after scaling would converge to `(C + γσI)⁻¹ v` instead: here far off."""

    class Mean(DenseOperator):
        n_examples = N

        def sampled(self, indices):
            return self

    matrix = with_spectrum([0.5, 1.0, 3.0, 8.0])
    rhs = gaussian(4, 2)
    operator = Mean(matrix, lower_bound=0.5) + DiagonalOperator(torch.full((4,), 0.7, dtype=torch.float64))
    solution = LiSSA(scale=scale, repeats=1, bias=1e-9).prepare(operator).solve(rhs)
    expected = torch.linalg.solve(matrix + 0.7 * torch.eye(4, dtype=torch.float64), rhs)
    torch.testing.assert_close(solution.x, expected, rtol=1e-6, atol=1e-8)


def test_the_standard_error_is_the_true_spread():
    """Over many seeds the results scatter as much as each run says of itself."""
    operator, dense, rhs = problem()
    runs = [
        LiSSA(repeats=4, batch_size=10).prepare(operator, seed=seed).solve(rhs[:, :1]) for seed in range(24)
    ]
    results = torch.stack([run.x for run in runs])
    reported = torch.stack([run.error_directions.square().sum(0) for run in runs]).mean(0).sqrt()
    ratio = results.std(0) / reported
    assert 0.6 < float(ratio.median()) < 1.6
    bias = results.mean(0) - torch.linalg.solve(dense, rhs[:, :1])
    assert float((bias / (results.std(0) / 24**0.5)).abs().max()) < 4


def test_scale_and_depth_are_chosen_and_reported():
    operator, dense, _ = problem()
    prepared = LiSSA(batch_size=10, bias=1e-3).prepare(operator)
    assert prepared.notes["scale"] > float(torch.linalg.eigvalsh(dense)[-1])
    contraction = 1 - 0.3 / prepared.notes["scale"]
    assert contraction ** prepared.notes["depth"] <= 1e-3
    assert contraction ** (prepared.notes["depth"] - 1) > 1e-3
    assert prepared.notes["bias_bound"] == pytest.approx(contraction ** prepared.notes["depth"])


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_result():
    operator, _, rhs = problem()
    first, again, other = (
        LiSSA(repeats=2, batch_size=10).prepare(operator, seed=s).solve(rhs).x for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_scale_that_is_too_small_diverges_with_advice():
    operator, dense, rhs = problem()
    too_small = float(torch.linalg.eigvalsh(dense)[-1]) / 4
    with pytest.raises(DivergenceError, match=r"LiSSA diverged.*scale.*raise it.*batch_size"):
        LiSSA(scale=too_small, depth=2000, batch_size=10).prepare(operator).solve(rhs)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.4])
def test_divergence_is_refused_however_few_steps_the_scale_asks_for(share):
    """A scale far too small makes the automatic depth short: there is no time to grow by many orders."""
    operator, dense, rhs = problem()
    scale = share * float(torch.linalg.eigvalsh(dense)[-1])
    prepared = LiSSA(scale=scale, batch_size=40).prepare(operator)
    assert prepared.notes["depth"] < 100
    with pytest.raises(DivergenceError, match=r"LiSSA diverged.*raise it"):
        prepared.solve(rhs)


def test_slow_divergence_that_ends_in_time_is_refused_by_its_residual():
    """`(I − C/σ)^J` grows a hundredfold in the steepest direction: less than an iterate may reach that is
    long for good reason, in the flattest one."""

    class Mean(DenseOperator):
        n_examples = N

        def sampled(self, indices):
            return self

    operator = Mean(with_spectrum([0.01, 1.0, 3.0]), lower_bound=0.01)
    with pytest.raises(DivergenceError, match=r"residual of its answer.*scale 1\.4 .*raise it \(try 5\.6\)"):
        LiSSA(scale=1.4, depth=35, repeats=2).prepare(operator).solve(gaussian(3, 2))


@pytest.mark.parametrize("depth", [40, 120, 400])
def test_the_iterates_of_a_convergent_series_stay_within_their_bound(depth):
    """`‖s_j‖ ≤ ‖v‖ min(j + 1, σ/λ_min)`, which divergence is told from: here for the flattest direction."""

    class Mean(DenseOperator):
        n_examples = N

        def sampled(self, indices):
            return self

    matrix = with_spectrum([0.01, 1.0, 3.0])
    flat = torch.linalg.eigh(matrix)[1][:, :1]
    solution = LiSSA(scale=3.0, depth=depth, repeats=1).prepare(Mean(matrix, lower_bound=0.01)).solve(flat)
    size = float(solution.x.norm()) * 3.0
    assert size <= min(depth + 1, 3.0 / 0.01) * (1 + 1e-12)
    assert size > 0.7 * min(depth + 1, 3.0 / 0.01)


@pytest.mark.slow
def test_steps_are_spent_on_noise_rather_than_on_bias_below_it():
    """The defaults against a bias ten times smaller at the same cost: four repeats of half as many more
    steps leave more error than six."""
    operator, dense, rhs = problem()
    exact = torch.linalg.solve(dense, rhs)

    def error(solver: LiSSA) -> tuple[float, float]:
        prepared = [solver.prepare(operator, seed=seed) for seed in range(20)]
        squares = [(one.solve(rhs).x - exact).square().sum() for one in prepared]
        steps = sum(solver.repeats * one.notes["depth"] for one in prepared)
        return float(torch.stack(squares).mean() / exact.square().sum()) ** 0.5, steps

    ours, cost = error(LiSSA(batch_size=40))
    other, other_cost = error(LiSSA(batch_size=40, bias=1e-3, repeats=4))
    assert cost == pytest.approx(other_cost, rel=0.02)
    assert ours < other


def test_a_depth_limit_that_is_reached_is_reported():
    operator, _, rhs = problem(damping=0.01)
    solution = LiSSA(max_depth=20, batch_size=10).prepare(operator).solve(rhs)
    assert not bool(solution.converged.any())
    assert "max_depth=20" in solution.reason and "damping" in solution.reason


def test_indefinite_curvature_is_refused():
    class Mean(DenseOperator):
        n_examples = N

    operator = Mean(with_spectrum([-0.5, 0.5, 2.0, 4.0]))
    with pytest.raises(
        NotPositiveDefiniteError, match=r"eigenvalue is -0\.5 or lower.*damping=0\.75"
    ) as caught:
        LiSSA().prepare(operator)
    assert caught.value.damping > 0.5


def test_an_operator_without_examples_is_refused():
    with pytest.raises(InputError, match=r"mini-batches of training examples.*CG or Exact"):
        LiSSA().prepare(DenseOperator(with_spectrum([1.0, 2.0])))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.0},
        {"scale": float("nan")},
        {"depth": 0},
        {"repeats": 0},
        {"batch_size": 0},
        {"max_depth": 0},
        {"bias": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        LiSSA(**options)
