"""Right-hand sides whose squares under- or overflow are solved for as if they were of unit size."""

from __future__ import annotations

import pytest
import torch

from tests.solvers.plain_operators import Gram, gaussian
from wherefrom.solvers import CG, Exact, Nystrom, solve_scaled


@pytest.mark.parametrize("solver", [CG(rtol=1e-5), Exact(), Nystrom(rank=5)])
@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e25])
def test_extreme_columns_in_float32(solver, size):
    rows = gaussian(60, 12, dtype=torch.float32)
    prepared = solver.prepare(Gram(rows).damped(0.5))
    rhs = gaussian(12, 3, 1, dtype=torch.float32)
    plain = prepared.solve(rhs)
    factors = torch.tensor([1.0, size, 0.0])
    found = solve_scaled(prepared.solve, rhs * factors)
    torch.testing.assert_close(found.x[:, 0], plain.x[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.x[:, 1] / size, plain.x[:, 1], rtol=1e-3, atol=1e-5)
    assert float(found.x[:, 2].norm()) == 0.0
    assert float(found.rhs_norm[1] / size) == pytest.approx(float(rhs[:, 1].norm()), rel=1e-4)
    assert bool(torch.isfinite(found.error_directions).all())


def test_ordinary_columns_are_passed_on_as_they_are():
    prepared = Exact().prepare(Gram(gaussian(30, 6)).damped(0.1))
    rhs = gaussian(6, 2)
    assert torch.equal(solve_scaled(prepared.solve, rhs).x, prepared.solve(rhs).x)
