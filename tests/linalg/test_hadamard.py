"""Expansion of the damped inverse, against dense float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from wherefrom.errors import InputError
from wherefrom.linalg.hadamard import expand_inverse


def sample(o, i, *, seed, noise=0.5, decay=4.0):
    """Eigenvalues as networks have them: two decaying sides times log-normal noise."""
    generator = torch.Generator().manual_seed(seed)
    side = [torch.logspace(0, -decay, n, dtype=torch.float64) for n in (o, i)]
    factor = torch.randn(o, i, generator=generator, dtype=torch.float64)
    return side[0][:, None] * side[1] * (noise * factor).exp()


def relative_error(expansion, eigenvalues, damping, weights=None):
    """The definition, entry by entry."""
    weights = eigenvalues**2 if weights is None else weights
    exact = 1 / (eigenvalues + damping)
    error = (weights * (expansion.dense() - exact) ** 2).sum() / (weights * exact**2).sum()
    return math.sqrt(float(error))


problems = st.fixed_dictionaries(
    {
        "o": st.integers(1, 24),
        "i": st.integers(1, 24),
        "seed": st.integers(0, 10_000),
        "noise": st.sampled_from([0.0, 0.3, 1.5]),
        "decay": st.sampled_from([0.0, 3.0, 12.0]),
    }
)


@settings(max_examples=40)
@given(problem=problems, ratio=st.sampled_from([0.01, 0.1, 1.0]), rtol=st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_the_prediction_is_the_weighted_error_and_is_within_the_tolerance(problem, ratio, rtol):
    eigenvalues = sample(**problem)
    damping = ratio * float(eigenvalues.mean())
    expansion = expand_inverse(eigenvalues, damping, rtol)
    assert expansion.attained
    assert expansion.predicted_error <= rtol * (1 + 1e-9)
    assert relative_error(expansion, eigenvalues, damping) == pytest.approx(
        expansion.predicted_error, rel=1e-3, abs=1e-10
    )
    assert expansion.operations <= eigenvalues.numel()
    exact = 1 / (eigenvalues + damping)
    torch.testing.assert_close(
        expansion.dense()[expansion.rows, expansion.columns], exact[expansion.rows, expansion.columns]
    )


@settings(max_examples=25)
@given(problem=problems, rtol=st.sampled_from([1e-1, 1e-2, 1e-3]), exact_entries=st.booleans())
def test_pairs_of_the_assumed_distribution_have_the_predicted_error(problem, rtol, exact_entries):
    eigenvalues = sample(**(problem | {"o": problem["o"] + 3, "i": problem["i"] + 3}))
    damping = 0.1 * float(eigenvalues.mean())
    cost = 1.0 if exact_entries else math.inf
    expansion = expand_inverse(eigenvalues, damping, rtol, entry_cost=cost)
    generator = torch.Generator().manual_seed(problem["seed"])
    draw = torch.randn(2, 400, eigenvalues.numel(), generator=generator, dtype=torch.float64)
    queries, train = draw * eigenvalues.flatten().sqrt()
    exact = (queries / (eigenvalues + damping).flatten()) @ train.T
    scores = (queries * expansion.dense().flatten()) @ train.T
    measured = float((scores - exact).norm() / exact.norm())
    assert measured <= 1.5 * expansion.predicted_error + 1e-7
    assert measured >= expansion.predicted_error / 2 - 1e-7
    assert float(exact.square().mean().sqrt()) == pytest.approx(expansion.score_rms, rel=0.4)


@pytest.mark.parametrize("block", [7, 512])
def test_scores_are_those_of_the_dense_expansion(block):
    eigenvalues = sample(30, 40, seed=0)
    expansion = expand_inverse(eigenvalues, 0.1 * float(eigenvalues.mean()), 1e-2)
    assert expansion.rank > 0
    assert expansion.entries > 7
    sides = [torch.randn(n, d, dtype=torch.float64) for n, d in ((5, 30), (5, 40), (9, 30), (9, 40))]
    expected = torch.einsum("qo,qi,oi,to,ti->qt", sides[0], sides[1], expansion.dense(), sides[2], sides[3])
    torch.testing.assert_close(expansion.scores(*sides, block=block), expected)


def test_terms_and_entries_together_cost_less_than_either():
    eigenvalues = sample(96, 128, seed=1)
    damping = 0.1 * float(eigenvalues.mean())
    both = expand_inverse(eigenvalues, damping, 1e-2)
    terms = expand_inverse(eigenvalues, damping, 1e-2, entry_cost=math.inf)
    assert both.attained
    assert terms.attained
    assert terms.entries == 0
    energy = (eigenvalues / (eigenvalues + damping)).square().flatten().sort()[0]
    entries_alone = int((energy.cumsum(0) > 1e-4 * energy.sum()).sum())
    assert 3 * both.operations < 2 * terms.operations
    assert 3 * both.operations < 2 * entries_alone


@pytest.mark.parametrize("cost", [1.0, math.inf])
def test_a_separable_inverse_is_one_exact_term(cost):
    left, right = (torch.linspace(1, 3, n, dtype=torch.float64) for n in (12, 17))
    damping = 0.05
    eigenvalues = 1 / (left[:, None] * right) - damping
    assert float(eigenvalues.min()) > 0
    expansion = expand_inverse(eigenvalues, damping, 1e-6, entry_cost=cost)
    assert (expansion.rank, expansion.entries) == (1, 0)
    torch.testing.assert_close(expansion.dense(), left[:, None] * right)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_eigenvalues_are_one_term(value):
    expansion = expand_inverse(torch.full((6, 9), value), 0.5, 1e-6)
    assert (expansion.rank, expansion.entries) == (1, 0)
    torch.testing.assert_close(expansion.dense(), torch.full((6, 9), 1 / (value + 0.5), dtype=torch.float64))
    assert expansion.score_rms == pytest.approx(math.sqrt(54) * value / (value + 0.5))


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_separable_weights_give_the_eckart_young_error(rank):
    eigenvalues = sample(10, 14, seed=2)
    root = torch.linspace(1, 2, 10, dtype=torch.float64)[:, None] * torch.linspace(
        3, 1, 14, dtype=torch.float64
    )
    expansion = expand_inverse(eigenvalues, 0.01, 1e-12, weights=root**2, max_rank=rank, entry_cost=math.inf)
    singular = torch.linalg.svdvals(root / (eigenvalues + 0.01)).square()
    assert not expansion.attained
    assert expansion.rank == rank
    assert expansion.predicted_error == pytest.approx(
        math.sqrt(float(singular[rank:].sum() / singular.sum()))
    )


@settings(max_examples=20)
@given(problem=problems, tall=st.booleans())
def test_the_error_falls_with_the_rank(problem, tall):
    eigenvalues = sample(**problem)
    rows, columns = eigenvalues.mean(1, keepdim=True), eigenvalues.mean(0)
    damping = 0.1 * float(eigenvalues.mean())
    errors = [
        expand_inverse(
            eigenvalues, damping, 1e-15, weights=(rows * columns) ** 2, max_rank=rank, entry_cost=math.inf
        ).predicted_error
        for rank in range(1, min(eigenvalues.shape) + 1)
    ]
    assert all(after <= before * (1 + 1e-9) + 1e-9 for before, after in pairwise(errors))
    assert errors[-1] < 1e-7


@settings(max_examples=20)
@given(problem=problems, power=st.integers(-60, 60))
def test_scaling_eigenvalues_and_damping_scales_the_inverse(problem, power):
    eigenvalues = sample(**problem)
    damping = 0.1 * float(eigenvalues.mean())
    scale = 2.0**power
    one = expand_inverse(eigenvalues, damping, 1e-2)
    other = expand_inverse(eigenvalues * scale, damping * scale, 1e-2)
    assert (one.rank, one.entries) == (other.rank, other.entries)
    assert torch.equal(one.rows, other.rows)
    torch.testing.assert_close(other.dense() * scale, one.dense())
    assert other.predicted_error == pytest.approx(one.predicted_error)
    assert other.score_rms == pytest.approx(one.score_rms)  # Λ/(Λ+λ) has no unit


@pytest.mark.slow
def test_the_same_input_gives_the_same_expansion_and_large_matrices_too():
    eigenvalues = sample(1030, 1100, seed=3, noise=0.2)  # beyond the size of the dense eigenproblem
    damping = float(eigenvalues.mean())
    one, other = (expand_inverse(eigenvalues, damping, 0.1) for _ in range(2))
    assert torch.equal(one.dense(), other.dense())
    assert relative_error(one, eigenvalues, damping) <= 0.1 * (1 + 1e-6)
    assert one.operations < eigenvalues.numel() / 20


def test_twelve_decades_and_rows_without_gradient():
    eigenvalues = sample(40, 30, seed=4, decay=12.0)
    eigenvalues[5] = 0
    eigenvalues[:, 7] = 0
    damping = 1e-6 * float(eigenvalues.mean())
    expansion = expand_inverse(eigenvalues, damping, 1e-4)
    assert bool(torch.isfinite(expansion.dense()).all())
    assert relative_error(expansion, eigenvalues, damping) <= 1e-4 * (1 + 1e-6)


def test_rounding_to_float32_costs_the_amplification():
    eigenvalues = sample(60, 80, seed=5)
    damping = 0.1 * float(eigenvalues.mean())
    expansion = expand_inverse(eigenvalues, damping, 1e-4)
    rounded = expansion.to(dtype=torch.float32).to(dtype=torch.float64)
    root = eigenvalues * (rounded.dense() - expansion.dense())
    size = eigenvalues / (eigenvalues + damping)
    # Two roundings a term and one for an exact entry's value, which is at most the terms plus the inverse.
    bound = torch.finfo(torch.float32).eps * (2 * expansion.amplification + 1)
    assert float(root.norm() / size.norm()) <= bound
    assert expansion.amplification < 10
    assert rounded.left.dtype == torch.float64


def test_measured_weights_are_what_is_minimised():
    eigenvalues = sample(24, 20, seed=6)
    weights = sample(24, 20, seed=7, noise=1.0)
    expansion = expand_inverse(eigenvalues, 1e-3, 1e-2, weights=weights)
    assert expansion.predicted_error == pytest.approx(relative_error(expansion, eigenvalues, 1e-3, weights))
    exact = weights.sqrt() / (eigenvalues + 1e-3)
    assert expansion.score_rms == pytest.approx(float(exact.norm()))


def test_weights_that_are_all_zero_count_every_entry_alike():
    eigenvalues = sample(6, 5, seed=8)
    expansion = expand_inverse(eigenvalues, 0.1, 1e-3, weights=torch.zeros(6, 5, dtype=torch.float64))
    assert relative_error(expansion, eigenvalues, 0.1, torch.ones(6, 5, dtype=torch.float64)) <= 1e-3 * (
        1 + 1e-9
    )
    assert expansion.score_rms == 0


def test_gradients_of_a_network_have_about_the_predicted_error():
    """Real gradients are neither Gaussian nor uncorrelated in the eigenbasis; queries are held out."""
    digits = load_digits()
    inputs = torch.from_numpy(digits.data / 16.0)
    labels = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    first, second = torch.nn.Linear(64, 32).double(), torch.nn.Linear(32, 10).double()
    optimiser = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(second(first(inputs[:1500]).relu()), labels[:1500])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    hidden = first(inputs)
    logits = second(hidden.relu())
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    delta = torch.autograd.grad(losses, hidden, retain_graph=True)[0]
    fisher = torch.zeros(32, 64, dtype=torch.float64)
    probabilities = logits.softmax(1).detach()
    columns = [
        torch.autograd.grad(
            logits, hidden, probabilities[:, [c]].sqrt() * (unit - probabilities), retain_graph=True
        )[0]
        for c, unit in enumerate(torch.eye(10, dtype=torch.float64))
    ]
    output_basis = torch.linalg.eigh(sum(column[:1500].T @ column[:1500] for column in columns))[1]
    input_basis = torch.linalg.eigh(inputs[:1500].T @ inputs[:1500])[1]
    left, right = delta @ output_basis, inputs @ input_basis
    for column in columns:
        fisher += (column[:1500] @ output_basis).square().T @ right[:1500].square() / 1500
    damping = 0.1 * float(fisher.mean())
    expansion = expand_inverse(fisher, damping, 1e-2)
    assert expansion.operations < fisher.numel() / 2
    exact = torch.einsum(
        "qo,qi,oi,to,ti->qt", left[1500:], right[1500:], 1 / (fisher + damping), left[:1500], right[:1500]
    )
    scores = expansion.scores(left[1500:], right[1500:], left[:1500], right[:1500])
    measured = float((scores - exact).norm() / exact.norm())
    assert measured <= 2 * expansion.predicted_error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"damping": 0.0}, "damping is 0.0"),
        ({"damping": math.nan}, "damping is nan"),
        ({"rtol": -1.0}, "rtol is -1.0"),
        ({"rtol": math.inf}, "rtol is inf"),
        ({"entry_cost": 0.0}, "entry_cost is 0.0"),
        ({"max_rank": 0}, "max_rank is 0"),
        ({"eigenvalues": -torch.ones(2, 3)}, "eigenvalues range from -1 to -1"),
        ({"eigenvalues": torch.full((2, 3), math.nan)}, "eigenvalues range from nan"),
        ({"eigenvalues": torch.ones(0, 3)}, r"eigenvalues have the shape \(0, 3\)"),
        ({"weights": -torch.ones(2, 3)}, "weights range"),
        ({"weights": torch.ones(3, 2)}, "the same shape"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"eigenvalues": torch.ones(2, 3), "damping": 1.0, "rtol": 1e-3}
    with pytest.raises(InputError, match=message):
        expand_inverse(**(good | change))
