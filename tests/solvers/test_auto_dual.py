"""When `solver="auto"` factorises in the dual space, and what it says of size and time."""

from __future__ import annotations

import pytest
import torch

from tests.problems import classification, mlp, normal, tanh_mlp
from tests.solvers.plain_operators import Gram
from wherefrom.curvature import choose_curvature, gauss_newton
from wherefrom.gradients import GradientEngine
from wherefrom.losses import CustomLoss
from wherefrom.solvers import CG, EKFAC, Exact, choice, choose_solver
from wherefrom.solvers.cost import Cost, DualCost, dual_cost, in_words
from wherefrom.task import Objective

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


RATE = 4e10


@pytest.mark.parametrize(
    ("m", "dtype", "size"),
    [
        (5_000, torch.float32, 8),  # small: float64 whatever the operator is
        (18_000, torch.float32, 4),
        (18_000, torch.float64, 8),
    ],
)
def test_predicted_cost(m, dtype, size):
    factor = Declared(m, 9_000, dtype, operations=1e9)
    cost = dual_cost(factor, factor)
    assert (cost.size, cost.bytes, cost.precision.itemsize) == (m, size * m * m, size)
    # Operations in float64 count as two; the first answers come on top.
    answers = 2 * 16 * factor.product_operations()
    assert cost.operations == pytest.approx((m**3 / 3 + 1e9) * size / 4 + answers)
    without = dual_cost(factor, factor, with_gram=False)
    assert cost.operations - without.operations == pytest.approx(1e9 * size / 4)
    assert cost.seconds == pytest.approx(cost.operations / RATE)


def test_a_thousand_examples_of_ten_classes_are_factorised():
    solver, reason = choose_solver("auto", Declared(9_000, 90_000), memory=4 * GIB, damped=True)
    assert isinstance(solver, Exact) and solver.space == "dual"
    assert "= 9,000 are few enough to factorise in the dual space (about" in reason
    assert "Instead: CG," in reason


@pytest.mark.parametrize(
    ("factor", "memory", "why"),
    [
        (Declared(12_000, 90_000), GIB // 2, "memory budget of 0.537 GB"),
        (Declared(18_000, 90_000), 100 * GIB, "= 18,000: too large to factorise within 20 s"),
        (Declared(9_000, 90_000, operations=1e13), 4 * GIB, "= 9,000: too large to factorise within 20 s"),
    ],
)
def test_what_takes_too_long_or_too_much_is_not(factor, memory, why):
    solver, reason = choose_solver("auto", factor, memory=memory, damped=True)
    assert isinstance(solver, CG)
    assert why in reason and "an iteration and query" in reason


def test_the_gram_matrix_is_looked_at_only_where_the_factorisation_is_feasible():
    factor = Declared(40_000, 9_000)
    choose_solver("auto", factor, memory=100 * GIB, damped=True)
    assert factor.asked == 0


def test_without_damping_there_is_no_dual_space():
    solver, reason = choose_solver("auto", Declared(100, 9_000), memory=GIB, damped=False)
    assert isinstance(solver, CG) and "dual" not in reason and "output roots" not in reason
    assert isinstance(choose_solver("auto", Declared(100, 9_000), memory=GIB, damped=True)[0], Exact)


def test_a_network_beyond_both_spaces_is_left_to_ekfac(monkeypatch):
    monkeypatch.setattr(gauss_newton, "_SMALL_GRAM", 0.0)
    operator = choose_curvature(GradientEngine(tanh_mlp().objective()), "ggn").operator
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, Exact) and "small enough to factorise" in reason
    assert "EK-FAC, an approximation, less than a second" in reason
    monkeypatch.setattr(choice, "EXACT_SECONDS", 0.0)
    monkeypatch.setattr(choice, "kronecker_cost", lambda data: Cost(0.0, 1))
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, EKFAC) and "too large to factorise within 0 s" in reason
    assert "layer by layer" in reason


def test_an_exact_answer_that_takes_less_than_ekfac_is_taken_however_long(monkeypatch):
    operator = choose_curvature(GradientEngine(tanh_mlp().objective()), "ggn").operator
    monkeypatch.setattr(choice, "EXACT_SECONDS", 0.0)
    monkeypatch.setattr(choice, "kronecker_cost", lambda data: Cost(1e3, 1))
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, Exact) and "more than 0 s but less than EK-FAC" in reason


def test_ekfac_that_takes_longer_than_iterating_is_left(monkeypatch):
    operator = choose_curvature(GradientEngine(tanh_mlp().objective()), "ggn").operator
    monkeypatch.setattr(choice, "EXACT_SECONDS", 0.0)
    monkeypatch.setattr(choice, "primal_cost", lambda operator: Cost(1e5, 1))
    monkeypatch.setattr(choice, "kronecker_cost", lambda data: Cost(1e4, 1))
    monkeypatch.setattr(choice, "dual_cost", lambda *_, **__: DualCost(1e5, 1, 22, torch.float64, 1.0))
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, CG) and "EK-FAC would take about 2.8 hours" in reason


def test_the_choice_is_the_same_every_time():
    """It rests on counts: the words, times included, repeat."""
    reasons = {
        choose_solver(
            "auto",
            choose_curvature(GradientEngine(tanh_mlp().objective()), "ggn").operator,
            memory=GIB,
            damped=True,
        )[1]
        for _ in range(3)
    }
    assert len(reasons) == 1


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (0.5, "less than a second"),
        (19.4, "about 19 s"),
        (150.0, "about 2.5 minutes"),
        (9_000.0, "about 2.5 hours"),
        (864_000.0, "about 10 days"),
    ],
)
def test_times_in_words(time, words):
    assert in_words(time) == words


def test_a_loss_that_ekfac_would_take_root_by_root_is_left_to_cg(monkeypatch):
    monkeypatch.setattr(choice, "EXACT_SECONDS", 0.0)
    monkeypatch.setattr(choice, "EXACT_SECONDS_AFFINE", 0.0)
    loss = CustomLoss(lambda f, y: (f - y).square().sum(1), name="squares", convex=True)
    problem = classification(mlp(outputs=30), normal(5, 4), normal(5, 30))
    objective = Objective(problem.model, problem.data, loss=loss)
    operator = choose_curvature(GradientEngine(objective), "ggn").operator
    solver, reason = choose_solver("auto", operator, memory=GIB, damped=True)
    assert isinstance(solver, CG) and "loss 'squares' has 30 roots an example" in reason
