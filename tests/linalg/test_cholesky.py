"""Factorisation in place, in blocks, against LAPACK's."""

from __future__ import annotations

import pytest
import torch

from wherefrom.linalg import InPlaceCholesky, cholesky


def positive(m: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rows = torch.randn(m, m + 3, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    return (rows @ rows.T + torch.eye(m, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("block", [1, 4, 7, 1024])
@pytest.mark.parametrize("m", [1, 7, 20])
def test_it_solves_as_a_dense_solve_does(m, block, monkeypatch):
    monkeypatch.setattr(cholesky, "_BLOCK", block)
    matrix = positive(m)
    rhs = torch.randn(m, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given, kept = matrix.clone(), rhs.clone()
    factor = InPlaceCholesky(given)
    assert factor.positive_definite
    torch.testing.assert_close(factor.solve(rhs), torch.linalg.solve(matrix, rhs))
    assert torch.equal(rhs, kept)
    torch.testing.assert_close(given.tril(), torch.linalg.cholesky(matrix))
    outside = torch.ones(m, m, dtype=torch.bool).triu(1)
    outside &= torch.arange(m)[:, None] // block != torch.arange(m) // block
    assert torch.equal(given[outside], matrix[outside])


def test_a_right_hand_side_in_another_precision_is_converted():
    matrix = positive(9, torch.float32)
    rhs = torch.ones(9, 2, dtype=torch.float64)
    found = InPlaceCholesky(matrix.clone()).solve(rhs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.linalg.solve(matrix, rhs.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [0, 5, 19])
def test_a_matrix_that_is_not_positive_definite_is_told(at, monkeypatch):
    monkeypatch.setattr(cholesky, "_BLOCK", 4)
    matrix = positive(20)
    matrix[at, at] = -1.0
    assert not InPlaceCholesky(matrix).positive_definite
