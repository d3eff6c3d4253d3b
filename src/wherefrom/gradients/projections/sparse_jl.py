"""Sparse Johnson–Lindenstrauss projections: a few signs per parameter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.gradients.projections.base import BoundProjection, Projection, positive, size_of
from wherefrom.gradients.projections.exact_sums import BLOCK, slices
from wherefrom.gradients.projections.random_words import SPARSE, random_bytes
from wherefrom.task import ParameterSet

_NONZEROS = 8
_INDEX_BITS = 31


class SparseJL(Projection):
    """Every parameter goes to `nonzeros` components with random signs, `±1/√nonzeros`: one in each of as many
    equal groups of components.

    The error's variance is that of a dense projection whatever `nonzeros` is; more of them make large errors
    rarer for vectors that rest on few entries. One is the count sketch.

    Args:
        k: components.
        seed: of places and signs.
        nonzeros: per parameter; `None` takes 8, or `k` if that is less.

    Cost for `b` rows: `b·p·nonzeros` additions, where a dense projection takes `b·p·k`. Results are equal to
    the last bit for any batch or device.

    Raises:
        InputError: `k < 1`, `nonzeros` outside `1..k`, or a seed that is no integer.

    Source: Kane & Nelson 2014, §1 (block construction).
    """

    name = "sparse_jl"

    def __init__(self, k: int, seed: int = 0, nonzeros: int | None = None):
        super().__init__(seed)
        self.k = positive("k", k, "the number of components")
        wanted = min(_NONZEROS, self.k) if nonzeros is None else nonzeros
        self.nonzeros = positive("nonzeros", wanted, "the number of components each parameter goes to")
        if self.nonzeros > self.k:
            raise InputError(
                f"nonzeros={self.nonzeros}: expected at most k={self.k}, one for each component. Lower it or "
                "raise k."
            )

    def bind(self, parameters: int | ParameterSet) -> _Sparse:
        return _Sparse(size_of(parameters), self.k, self.seed, self.nonzeros)

    def settings(self) -> dict[str, Any]:
        return {"projection": self.name, "k": self.k, "seed": self.seed, "nonzeros": self.nonzeros}


class _Sparse(BoundProjection):
    def __init__(self, p: int, k: int, seed: int, nonzeros: int):
        super().__init__(p, k)
        self._seed = seed
        self._nonzeros = nonzeros
        self._scale = 1 / math.sqrt(nonzeros)
        edges = np.arange(nonzeros + 1, dtype=np.int64) * k // nonzeros
        self._first, self._sizes = edges[:-1, None], np.diff(edges)[:, None]

    def _places(
        self, block: int, width: int, device: torch.device
    ) -> tuple[Int[Tensor, "s c"], Float[Tensor, "s c"]]:
        """Components and signs of one block of parameters."""
        drawn = random_bytes(self._seed, SPARSE, block, 0, 4 * self._nonzeros * BLOCK).view("<u4")
        numbers = drawn.reshape(self._nonzeros, BLOCK)[:, :width].astype(np.int64)
        index = self._first + (((numbers >> 1) * self._sizes) >> _INDEX_BITS)
        signs = 2.0 * (numbers & 1) - 1
        return torch.from_numpy(index).to(device), torch.from_numpy(signs).to(device)

    def _apply(self, rows: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        total = torch.zeros(rows.shape[0], self.k, dtype=torch.float64, device=rows.device)
        for block, start in enumerate(range(0, self.p, BLOCK)):
            part = rows[:, start : start + BLOCK]
            index, signs = self._places(block, part.shape[1], rows.device)
            for one in slices(part, 0):
                columns = one.integers.T.contiguous()
                sums = torch.zeros(self.k, rows.shape[0], dtype=torch.float64, device=rows.device)
                for where, sign in zip(index, signs):
                    sums.index_add_(0, where, columns * sign[:, None])
                total += sums.T * one.unit
        return (total * self._scale).to(rows.dtype)

    def _adjoint(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "b p"]:
        made = torch.empty(rows.shape[0], self.p, dtype=rows.dtype, device=rows.device)
        columns = rows.double().T.contiguous()
        for block, start in enumerate(range(0, self.p, BLOCK)):
            width = min(BLOCK, self.p - start)
            index, signs = self._places(block, width, rows.device)
            total = torch.zeros(width, rows.shape[0], dtype=torch.float64, device=rows.device)
            for where, sign in zip(index, signs):
                total += columns[where] * sign[:, None]
            made[:, start : start + width] = (total.T * self._scale).to(rows.dtype)
        return made
