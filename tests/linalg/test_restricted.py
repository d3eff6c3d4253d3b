"""Principal submatrices as operators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.matrices import network
from tests.problems import normal
from tests.support import as_a_user
from wherefrom.curvature import choose_curvature
from wherefrom.errors import InputError
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import DenseOperator, DiagonalOperator, RestrictedOperator


@given(p=st.integers(1, 20), seed=st.integers(0, 10**6), k=st.integers(1, 3))
def test_the_submatrix(p, seed, k):
    matrix = normal(p, p, seed=seed)
    operator = DenseOperator(matrix + matrix.T, -3.0)
    order = torch.randperm(p, generator=torch.Generator().manual_seed(seed))[: max(1, p // 2)]
    part = RestrictedOperator(operator, order)
    sub = operator.matrix[order][:, order]
    vectors = normal(len(order), k, seed=seed + 1)
    assert torch.allclose(part.matmat(vectors), sub @ vectors)
    assert torch.allclose(part.to_dense(), sub)
    assert torch.equal(part.compact().to_dense(), sub)
    assert part.lower_bound == -3
    values, every = torch.linalg.eigvalsh(sub), torch.linalg.eigvalsh(operator.matrix)
    assert every[0] - 1e-12 <= values[0] and values[-1] <= every[-1] + 1e-12  # interlacing


def test_ways_to_choose():
    operator = DenseOperator(torch.diag(torch.arange(6, dtype=torch.float64)))
    mask = torch.tensor([False, True, True, False, False, True])
    for index in ([1, 2, 5], torch.tensor([1, 2, 5]), mask, [slice(1, 3), slice(5, 6)]):
        assert RestrictedOperator(operator, index).index.tolist() == [1, 2, 5]
    assert RestrictedOperator(operator, slice(2, 4)).to_dense().diagonal().tolist() == [2, 3]


def test_a_layer_of_a_network():
    problem = network()
    operator = choose_curvature(GradientEngine(problem.objective()), "ggn").operator
    layer = slice(0, 84)
    part = RestrictedOperator(operator, layer)
    assert torch.allclose(part.to_dense(), problem.dense().ggn()[layer, layer], atol=1e-10)
    assert part.n_examples == 40
    sampled = part.sampled(torch.arange(10))
    assert torch.allclose(sampled.to_dense(), operator.sampled(torch.arange(10)).to_dense()[layer, layer])
    assert part.compact().size == 84


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], r"chooses no parameter"),
        (slice(3, 3), r"chooses no parameter"),
        ([0, 4], r"position 4; expected 0 … 3"),
        ([-1], r"position -1"),
        ([1, 1], r"a parameter twice"),
        (torch.ones(3, dtype=torch.bool), r"a mask of shape \(3,\); expected \(4,\)"),
        (torch.ones(2), r"torch.float32 of shape \(2,\); expected whole numbers"),
    ],
)
def test_what_is_refused(index, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        RestrictedOperator(DiagonalOperator(normal(4)), index)
