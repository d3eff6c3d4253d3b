"""Cholesky factorisation of a large matrix in its own memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.progress import progress_bar

# Columns factorised together: enough for matrix products at full speed, few for the factorisation inside.
_BLOCK = 1024


class InPlaceCholesky:
    """`A = L Lᵀ` with `L` written over the lower triangle of `A`; the upper one is left as it is.

    Cost: `m³/3` operations; beside the matrix, memory for 1024 of its columns (torch's own functions copy the
    matrix, here and at every solve).

    Args:
        matrix: symmetric, of which the lower triangle is read; it must not be used afterwards.

    Attributes:
        positive_definite: whether the factorisation exists; without it nothing can be solved.
    """

    def __init__(self, matrix: Float[Tensor, "m m"]):
        self._matrix = matrix
        self.positive_definite = self._factorise()

    def _factorise(self) -> bool:
        """Column block by column block, each updated with all that stand left of it."""
        a = self._matrix
        steps = self._blocks()
        with progress_bar("Cholesky factorisation", len(steps), enabled=len(steps) > 1) as bar:
            for at in steps:
                done, below = slice(0, at.start), slice(at.stop, None)
                if at.start:
                    a[at.start :, at].addmm_(a[at.start :, done], a[at, done].T, alpha=-1)
                corner, info = torch.linalg.cholesky_ex(a[at, at])
                if int(info) != 0:
                    return False
                a[at, at] = corner
                if at.stop < a.shape[0]:
                    a[below, at] = torch.linalg.solve_triangular(
                        corner.T, a[below, at], upper=True, left=False
                    )
                bar.advance()
        return True

    def solve(self, rhs: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        """`A⁻¹ B`: `2 m² k` operations."""
        assert self.positive_definite
        a, x = self._matrix, rhs.to(self._matrix.dtype, copy=True)
        for at in self._blocks():
            done = slice(0, at.start)
            x[at] = torch.linalg.solve_triangular(a[at, at], x[at] - a[at, done] @ x[done], upper=False)
        for at in reversed(self._blocks()):
            below = slice(at.stop, None)
            x[at] = torch.linalg.solve_triangular(a[at, at].T, x[at] - a[below, at].T @ x[below], upper=True)
        return x

    def _blocks(self) -> list[slice]:
        size = self._matrix.shape[0]
        return [slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
