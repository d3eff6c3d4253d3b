"""Labels drawn from the model: by example number and seed alone, and with the model's distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.curvature.kronecker_cases import Setting, blocks_of, entries, mean_squares, summed_tokens
from tests.problems import (
    attention_tokens,
    binary_mlp_squeezed,
    classification,
    labels,
    linear_head,
    mlp,
    normal,
    tanh_mlp,
)
from wherefrom.curvature.metrics import SampledFisherMetric
from wherefrom.curvature.uniforms import placed_uniforms
from wherefrom.gradients import Evaluated
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Loss, SquaredError

MANY = 20_000


def at(outputs: torch.Tensor, targets: torch.Tensor) -> Evaluated:
    made = Evaluated()
    made.outputs, made.targets = outputs, targets
    return made


def drawn(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, seed: int = 0, draws: int = 1):
    return SampledFisherMetric(loss, draws, seed).cotangents(at(outputs, targets), slice(0, len(outputs)))


def test_classes_are_drawn_as_often_as_the_model_says():
    logits = torch.tensor([2.0, 0.0, -1.0, -torch.inf, 0.5, -4.0], dtype=torch.float64)
    made = drawn(CrossEntropy(), logits.expand(MANY, 6), torch.zeros(MANY, dtype=torch.long))
    counts = torch.bincount(made[0].argmin(1), minlength=6)
    p = torch.softmax(logits, 0)
    assert counts[3] == 0
    live = p > 0
    assert stats.chisquare(counts[live], p[live] * MANY).pvalue > 1e-3


def test_binary_labels_are_drawn_as_often_as_the_model_says():
    made = drawn(BinaryCrossEntropy(), torch.full((MANY,), -1.3).double(), torch.zeros(MANY))
    p = float(torch.sigmoid(torch.tensor(-1.3).double()))
    assert stats.binomtest(int((made < 0).sum()), MANY, p).pvalue > 1e-3


def test_gaussian_labels_are_normal():
    made = drawn(SquaredError(), torch.zeros(MANY, 2).double(), torch.zeros(MANY, 2))
    for column in made[0].T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(made[0].T.numpy())[0, 1]) < 5 / MANY**0.5


def test_uniform_numbers_are_uniform_and_unrelated_along_every_axis():
    made = np.stack([placed_uniforms(0, np.arange(3000), draw, 4).numpy() for draw in range(2)])
    assert made.min() > 0 and made.max() < 1
    assert stats.kstest(made.reshape(-1), "uniform").pvalue > 1e-3
    other = placed_uniforms(1, np.arange(3000), 0, 4).numpy()
    along = [(made[0, 1:], made[0, :-1]), (made[0, :, 1:], made[0, :, :-1])]
    pairs = [*along, (made[0], made[1]), (made[0], other)]
    for first, second in pairs:
        assert abs(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1]) < 5 / first.size**0.5


@given(seed=st.integers(-(2**70), 2**70), first=st.integers(0, 2**40), count=st.integers(1, 5))
def test_an_example_is_dealt_the_same_in_every_batch(seed, first, count):
    numbers = np.arange(first, first + count)
    together = placed_uniforms(seed, numbers, 1, 3)
    for place, number in enumerate(numbers):
        torch.testing.assert_close(placed_uniforms(seed, np.array([number]), 1, 3)[0], together[place])
        longer = placed_uniforms(seed, np.array([number]), 1, 5)[0, :3]
        torch.testing.assert_close(longer, together[place])


def test_labels_follow_the_number_of_the_example_however_it_is_named():
    outputs, targets = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(9).long()
    metric = SampledFisherMetric(CrossEntropy(), 3, 5)
    every = metric.cotangents(at(outputs, targets), slice(0, 9))
    part = metric.cotangents(at(outputs[4:7], targets[4:7]), slice(4, 7))
    index = torch.tensor([8, 0, 4])
    picked = metric.cotangents(at(outputs[index], targets[index]), index)
    torch.testing.assert_close(part, every[:, 4:7])
    torch.testing.assert_close(picked, every[:, index])


def test_factors_are_the_same_every_run_and_others_for_another_seed():
    first, again = (Setting(tanh_mlp()).gather(labels="sampled", seed=3) for _ in range(2))
    other = Setting(tanh_mlp()).gather(labels="sampled", seed=4)
    for ours, same, different in zip(first.eigenvalues, again.eigenvalues, other.eigenvalues):
        assert torch.equal(ours, same)
        assert not torch.allclose(ours, different)


@pytest.mark.parametrize(
    "build", [linear_head, tanh_mlp, attention_tokens, summed_tokens, binary_mlp_squeezed, mean_squares]
)
def test_sampled_labels_tend_to_the_expectation(build):
    problem = build()
    ggn = problem.dense().ggn()
    few, many = (Setting(problem).gather("diagonal", labels="sampled", draws=draws) for draws in (1, 1000))
    for block, ours, rough in zip(many.blocks, blocks_of(many), blocks_of(few)):
        exact = entries(ggn, block).diagonal()
        assert (ours.diagonal() - exact).norm() <= 0.15 * exact.norm()
        assert (ours.diagonal() - exact).norm() <= 0.5 * (rough.diagonal() - exact).norm() + 1e-12


def test_one_draw_is_unbiased():
    """The mean over seeds lies within four standard errors of the trace."""
    problem = tanh_mlp()
    ggn, setting = problem.dense().ggn(), Setting(problem)
    found = [setting.gather("diagonal", labels="sampled", seed=seed).traces() for seed in range(200)]
    for block in setting.layers.blocks:
        traces = torch.tensor([one[block.name] for one in found], dtype=torch.float64)
        off = float(traces.mean() - entries(ggn, block).trace())
        assert abs(off) < 4 * float(traces.std()) / len(traces) ** 0.5


def test_auto_draws_labels_only_where_there_are_many_classes():
    assert "exactly" in Setting(tanh_mlp()).gather("diagonal").labels
    wide = classification(mlp(outputs=30), normal(5, 4), labels(5, classes=30))
    assert "drawn" in Setting(wide).gather("diagonal").labels
    assert "exactly" in Setting(wide).gather("diagonal", labels="exact").labels
