"""Following the advice of an error repairs the solve: the damping it names is enough and in scale."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import wherefrom
from tests.problems import labels, normal
from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.linalg import DenseOperator
from wherefrom.solvers.repair import repair_damping, round_up

SOLVERS = {
    "cholesky": wherefrom.Exact(),
    "eigh": wherefrom.Exact("eigh"),
    "cg": wherefrom.CG(),
    "arnoldi": wherefrom.Arnoldi(),
}


def indefinite(size: int, smallest: float, scale: float, dtype: torch.dtype) -> DenseOperator:
    basis = torch.linalg.qr(normal(size, size))[0]
    values = torch.linspace(0.05, 1.0, size, dtype=torch.float64)
    values[0] = smallest
    return DenseOperator((scale * basis * values @ basis.T).to(dtype))


def advised(error: NotPositiveDefiniteError) -> float:
    """The damping as a reader of the message would type it."""
    return float(re.search(r"damping=([0-9.e+-]+)", str(error)).group(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smallest", [-0.3, -1e-4, 0.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_advice_is_followed_and_the_answer_is_right(solver, scale, smallest, dtype):
    operator = indefinite(24, smallest, scale, dtype)
    rhs = normal(24, 2, seed=8).to(dtype)
    try:
        SOLVERS[solver].prepare(operator).solve(rhs)
    except NotPositiveDefiniteError as error:
        damping = advised(error)
        assert error.damping == pytest.approx(damping, rel=1e-12)
    else:
        # Not seen: within rounding of zero, or below what its few directions show.
        assert smallest > -0.1 or solver == "arnoldi"
        return
    assert math.sqrt(torch.finfo(dtype).eps) * scale * 0.9 <= damping <= 2 * scale
    repaired = operator.damped(damping)
    solution = SOLVERS[solver].prepare(repaired).solve(rhs)
    exact = torch.linalg.solve(repaired.to_dense().double(), rhs.double())
    if solver != "arnoldi":
        assert float((solution.x.double() - exact).norm()) <= 0.05 * float(exact.norm())


@pytest.mark.parametrize("solver", ["exact", "cg", "lissa", "arnoldi"])
def test_the_advice_repairs_a_network_away_from_its_minimum(solver):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = (normal(30, 4), labels(30))
    made = {"loss": "cross_entropy", "curvature": "hessian", "solver": solver, "progress": False}
    queries = (normal(2, 4, seed=6), labels(2))

    def scores(damping):
        return wherefrom.Influence(model, data, damping=damping, **made).fit().scores(queries)

    with pytest.raises(NotPositiveDefiniteError) as caught:
        scores(0.0)
    assert bool(torch.isfinite(scores(advised(caught.value)).values).all())


@given(st.floats(1e-250, 1e250))
def test_rounding_up_never_falls_short(value):
    found = round_up(value)
    assert value * (1 - 1e-11) <= found <= 1.1 * value * (1 + 1e-11)
    assert float(f"{found:.2g}") == found


@given(st.floats(-1e3, 0.0), st.floats(1e-3, 1e3), st.sampled_from([torch.float32, torch.float64]))
def test_the_repair_makes_every_eigenvalue_matter(smallest, largest, dtype):
    repair = repair_damping(smallest, largest, dtype)
    left = smallest + repair
    assert left > 0
    assert left >= 0.9 * min(0.5 * -smallest or math.inf, math.sqrt(torch.finfo(dtype).eps) * largest)
