"""What conjugate gradients know of their error in the energy norm: every step lowers its square by a number
that is at hand."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A look ahead is over when its second half lowered the squared error by less than this share of the whole.
_SETTLED = 0.1
_SHORTEST = 4
# A residual that has fallen so far leaves nothing to see.
_GONE = 1e-3
# Gains that hardly fall say no more than that what is left is so many times the last of them.
_SLOWEST = 0.9


class EnergyLog:
    """`‖x_{j+1} − x_j‖²` in the energy norm for every column, which add up to the squared error (Hestenes &
    Stiefel 1952)."""

    def __init__(self, columns: int):
        self._gains: list[Float[Tensor, " k"]] = []
        self._marks = torch.zeros(columns, dtype=torch.long)

    def add(self, gained: Float[Tensor, " k"], active: Bool[Tensor, " k"]) -> None:
        """The gains of an iteration; those of columns that are done are none."""
        self._gains.append(torch.where(active, gained, torch.zeros_like(gained)).clamp(min=0))

    def mark(self, columns: Bool[Tensor, " k"]) -> None:
        """Columns whose last stretch has not begun yet."""
        self._marks = torch.where(columns.cpu(), len(self._gains), self._marks)

    def rate(self) -> Float[Tensor, " k"]:
        """Gain of the stretch since the mark over that of as many iterations before it; NaN where fewer were
        before."""
        if not self._gains:
            return torch.full(self._marks.shape, torch.nan, dtype=torch.float64)
        gains = torch.stack(self._gains).double().cpu()
        before = torch.cat([torch.zeros(1, gains.shape[1], dtype=gains.dtype), gains.cumsum(0)])
        last = (gains > 0).long().mul(torch.arange(1, len(gains) + 1)[:, None]).amax(0)
        stretch = last - self._marks
        start = self._marks - stretch
        known = (stretch > 0) & (start >= 0)

        def until(at: Tensor) -> Tensor:
            return before.gather(0, at.clamp(min=0)[None])[0]

        new, old = until(last) - until(self._marks), until(self._marks) - until(start)
        return torch.where(known & (old > 0), new / old.clamp(min=1e-300), torch.nan)


class LookAhead:
    """The changes that further iterations would have made to columns that were stopped.

    Their squared energy norms add up to what the squared error falls by, so the sum is a lower bound of it
    that gets close as soon as the changes fall off (Strakoš & Tichý 2002).
    """

    def __init__(self, like: Float[Tensor, "p k"], norms: Float[Tensor, " k"], stopped: Bool[Tensor, " k"]):
        self._change = torch.zeros_like(like)
        self._first = norms
        self._stopped = stopped
        self._gains: list[Float[Tensor, " k"]] = []

    def add(self, moved: Float[Tensor, "p k"], gained: Float[Tensor, " k"]) -> None:
        self._change += moved
        self._gains.append(gained.clamp(min=0))

    def seen(self, norms: Float[Tensor, " k"]) -> bool:
        """Whether the changes have fallen off, or the residuals `norms` are gone."""
        if len(self._gains) < _SHORTEST:
            return bool((norms <= _GONE * self._first)[self._stopped].all())
        total, late = self._sums()
        over = (late <= _SETTLED * total) | (norms <= _GONE * self._first)
        return bool(over[self._stopped].all())

    def missing(self) -> Float[Tensor, "p k"]:
        """The error of the stopped columns: the sum of the changes, scaled up by what is left if they go on
        falling as from their first half to their second."""
        if not self._gains:
            return self._change
        total, late = self._sums()
        rate = (late / (total - late).clamp(min=1e-300)).clamp(max=_SLOWEST)
        left = late * rate / (1 - rate)
        scale = (1 + left / total.clamp(min=1e-300)).sqrt()
        return self._change * scale.to(self._change.dtype)

    def _sums(self) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Gains altogether, and those of the second half."""
        gains = torch.stack(self._gains)
        return gains.sum(0), gains[(len(gains) + 1) // 2 :].sum(0)
