"""Many systems at once: each against its own dense solve."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from wherefrom.linalg import batched_cg


def systems(batch: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(batch, size, size, generator=generator, dtype=torch.float64)
    rhs = torch.randn(batch, 2, size // 2, generator=generator, dtype=torch.float64)
    return roots @ roots.mT + 0.1 * torch.eye(size, dtype=torch.float64), rhs


def apply(matrices: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (matrices @ v.flatten(1)[:, :, None]).view_as(v)


@given(st.integers(1, 4), st.sampled_from([2, 6, 10]), st.integers(0, 50), st.booleans())
def test_each_system_is_solved_with_its_own_matrix(batch, size, seed, preconditioned):
    matrices, rhs = systems(batch, size, seed)
    scale = matrices.diagonal(dim1=1, dim2=2).mean(0).view(1, 2, -1) if preconditioned else 1.0
    start = torch.ones_like(rhs) if seed % 2 else None
    x, converged = batched_cg(
        lambda v: apply(matrices, v), lambda r: r / scale, rhs, start, rtol=1e-9, max_iterations=500
    )
    assert converged.all()
    expected = torch.linalg.solve(matrices, rhs.flatten(1)[:, :, None]).view_as(rhs)
    error = (apply(matrices, x) - rhs).flatten(1).norm(dim=1) / rhs.flatten(1).norm(dim=1)
    assert (error <= 1e-8).all()
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_get_there_is_said_and_does_not_hold_up_the_others():
    matrices, rhs = systems(2, 6, 0)
    matrices[1] = -torch.eye(6, dtype=torch.float64)  # no curvature to follow
    x, converged = batched_cg(lambda v: apply(matrices, v), lambda r: r, rhs, rtol=1e-8)
    assert converged.tolist() == [True, False] and torch.isfinite(x).all()
    assert not batched_cg(lambda v: apply(matrices, v), lambda r: r, rhs, rtol=1e-8, max_iterations=1)[
        1
    ].any()
    zero, done = batched_cg(lambda v: apply(matrices, v), lambda r: r, torch.zeros_like(rhs), rtol=1e-8)
    assert done.all() and not zero.any()
