"""Operator algebra against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.problems import normal
from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.linalg import DenseOperator, DiagonalOperator, LinearOperator, SumOperator, split_diagonal
from wherefrom.testing import check_operator

sizes = st.integers(1, 9)
seeds = st.integers(0, 10**6)
factors = st.floats(-5, 5).map(lambda value: round(value, 3))


def symmetric(p: int, seed: int = 0) -> Tensor:
    matrix = normal(p, p, seed=seed)
    return matrix + matrix.T


class Products(LinearOperator):
    """An operator known by its products only."""

    def __init__(self, matrix: Tensor, lower_bound: float = -math.inf):
        super().__init__(len(matrix), matrix.dtype, matrix.device, lower_bound)
        self._matrix = matrix

    def matmat(self, vectors: Tensor) -> Tensor:
        return self._matrix @ vectors


@given(p=sizes, seed=seeds, s=factors, t=factors, damping=st.floats(0, 10))
def test_sums_scalings_and_damping(p, seed, s, t, damping):
    a, b, d = symmetric(p, seed), symmetric(p, seed + 1), normal(p, seed=seed + 2)
    operator = (s * Products(a) + DenseOperator(b) * t + DiagonalOperator(d)).damped(damping)
    expected = s * a + t * b + torch.diag(d) + damping * torch.eye(p, dtype=torch.float64)
    torch.testing.assert_close(check_operator(operator), expected, rtol=1e-10, atol=1e-10)


@given(p=sizes, seed=seeds, factor=factors, damping=st.floats(0, 10))
def test_lower_bounds_stay_true(p, seed, factor, damping):
    matrix = symmetric(p, seed)
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    operator = (DenseOperator(matrix, smallest) * factor).damped(damping)
    check_operator(operator)
    if factor >= 0:
        assert operator.lower_bound == pytest.approx(factor * smallest + damping)
    else:
        assert operator.lower_bound == -math.inf


@pytest.mark.parametrize("p", [1, 63, 64, 65, 130])
def test_products_make_the_dense_matrix_in_pieces(p):
    matrix = symmetric(p)
    torch.testing.assert_close(check_operator(Products(matrix)), matrix)


def test_sums_are_flat_and_their_diagonals_one():
    a, d = DenseOperator(symmetric(4)), DiagonalOperator(torch.ones(4, dtype=torch.float64))
    total = (a + d) + (d + a) + d
    assert [type(term) for term in total.terms] == [DenseOperator, DenseOperator, DiagonalOperator]
    rest, diagonal = split_diagonal(total)
    assert rest == [a, a]
    assert torch.equal(diagonal, torch.full((4,), 3.0, dtype=torch.float64))
    assert split_diagonal(a)[0] == [a]
    assert not split_diagonal(a)[1].any()
    assert torch.equal(check_operator(d + d), 2 * torch.eye(4, dtype=torch.float64))


def test_the_dense_form_of_a_sum_is_its_own():
    matrix = symmetric(4)
    (DenseOperator(matrix) + DiagonalOperator(torch.ones(4, dtype=torch.float64))).to_dense().zero_()
    assert torch.equal(matrix, symmetric(4))


def test_no_damping_is_the_operator_itself():
    operator = DenseOperator(symmetric(3))
    assert operator.damped(0.0) is operator


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_damping_is_refused(bad):
    with pytest.raises(InputError, match=r"damping=.*expected a finite number ≥ 0"):
        DenseOperator(symmetric(3)).damped(bad)


@pytest.mark.parametrize("shape", [(2, 3), (4,)])
def test_a_matrix_must_be_square(shape):
    with as_a_user(), pytest.raises(InputError, match=r"expected a square one"):
        DenseOperator(torch.zeros(shape))


def test_sizes_must_agree():
    with pytest.raises(InputError, match=r"sizes \[3, 4\] cannot be added"):
        SumOperator([DenseOperator(symmetric(3)), DenseOperator(symmetric(4))])


class Broken(Products):
    def __init__(self, what: str):
        super().__init__(symmetric(4), 5.0 if what == "bound" else -math.inf)
        self.what = what
        if what == "samples":
            self.n_examples = 3

    def matmat(self, vectors: Tensor) -> Tensor:
        return super().matmat(vectors) + (1.0 if self.what == "linear" else 0.0)

    def matvec(self, vector: Tensor) -> Tensor:
        return super().matvec(vector) * (2 if self.what == "matvec" else 1)

    def sampled(self, indices: Tensor) -> LinearOperator:
        return Products(self._matrix * (1 + float(indices[0])))

    def to_dense(self) -> Tensor:
        matrix = self._matrix.clone()
        if self.what == "symmetric":
            matrix[0, 1] += 1
        return matrix * (2 if self.what == "dense" else 1)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("linear", "matmat against to_dense"),
        ("dense", "matmat against to_dense"),
        ("symmetric", "not symmetric"),
        ("matvec", "matvec"),
        ("bound", "lies below lower_bound 5"),
        ("samples", "mean of all sampled operators"),
    ],
)
def test_the_contract_catches_what_is_broken(what, message):
    with pytest.raises(AssertionError, match=message):
        check_operator(Broken(what))
