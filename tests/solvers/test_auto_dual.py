"""When `solver="auto"` factorises in the dual space, and what it says of size and time."""

from __future__ import annotations

import pytest
import torch
from plain_operators import Gram

from problems import tanh_mlp
from whence.curvature import choose_curvature, gauss_newton
from whence.gradients import GradientEngine
from whence.solvers import CG, EKFAC, Exact, auto, choose_solver
from whence.solvers.dual import dual_cost

GIB = 2**30


class Declared(Gram):
    """A factor of which only the size and the cost of its Gram matrix are asked."""

    def __init__(self, m: int, p: int, dtype: torch.dtype = torch.float32, operations: float = 0.0):
        super().__init__(torch.zeros(1, p, dtype=dtype))
        self.rank = m
        self.n_examples = m
        self.operations = operations
        self.asked = 0

    def gram_operations(self) -> float:
        self.asked += 1
        return self.operations


@pytest.mark.parametrize(
    ("m", "dtype", "size", "operations"),
    [
        (5_000, torch.float32, 8, 5_000**3 / 3),  # small: float64 whatever the operator is
        (18_000, torch.float32, 4, 18_000**3 / 3),
        (18_000, torch.float64, 8, 18_000**3 / 3),
    ],
)
def test_predicted_cost(m, dtype, size, operations):
    factor = Declared(m, 9_000, dtype, operations=1e9)
    cost = dual_cost(factor)
    assert (cost.size, cost.bytes, cost.precision.itemsize) == (m, size * m * m, size)
    assert cost.operations == pytest.approx(operations + 1e9)
    assert dual_cost(factor, with_gram=False).operations == pytest.approx(operations)
    assert cost.seconds == pytest.approx(cost.operations / (1e11 if size == 4 else 5e10))


def test_two_thousand_examples_of_ten_classes_are_factorised():
    solver, reason = choose_solver("auto", Declared(18_000, 9_000), memory=4 * GIB, damped=True)
    assert isinstance(solver, Exact) and solver.space == "dual"
    assert "= 18,000 (1.3 GB, about 19 s on two cores) are few enough" in reason


@pytest.mark.parametrize(
    ("factor", "memory"),
    [
        (Declared(18_000, 9_000), GIB),  # memory
        (Declared(40_000, 9_000), 100 * GIB),  # time of the factorisation
        (Declared(18_000, 9_000, operations=1e14), 4 * GIB),  # time of the Gram matrix
    ],
)
def test_what_takes_too_long_or_too_much_is_not(factor, memory):
    solver, reason = choose_solver("auto", factor, memory=memory, damped=True)
    assert isinstance(solver, CG)
    assert f"{factor.rank:,} (" in reason and "in the dual space are too many to factorise" in reason


def test_the_gram_matrix_is_looked_at_only_where_the_factorisation_is_feasible():
    factor = Declared(40_000, 9_000)
    choose_solver("auto", factor, memory=100 * GIB, damped=True)
    assert factor.asked == 0


def test_without_damping_there_is_no_dual_space():
    solver, reason = choose_solver("auto", Declared(100, 9_000), memory=GIB, damped=False)
    assert isinstance(solver, CG) and "dual" not in reason
    assert isinstance(choose_solver("auto", Declared(100, 9_000), memory=GIB, damped=True)[0], Exact)


def test_a_network_beyond_both_spaces_is_left_to_ekfac(monkeypatch):
    monkeypatch.setattr(auto, "_PRIMAL_LIMIT", 1)
    monkeypatch.setattr(gauss_newton, "_SMALL_GRAM", 0.0)
    operator = choose_curvature(GradientEngine(tanh_mlp().objective()), "ggn").operator
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, Exact) and "examples × output roots = 22 (" in reason
    monkeypatch.setattr(auto, "_DUAL_SECONDS", 0.0)
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, EKFAC) and "too many to factorise: layer by layer" in reason
