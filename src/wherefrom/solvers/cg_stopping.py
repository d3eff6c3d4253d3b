"""When conjugate gradients may stop because the *scores* have settled."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A stretch is this share of the iterations done: long enough that a plateau is not taken for the end, short
# enough to overshoot little.
_STRETCH = 0.2
_SHORTEST = 2


class ScoreWatch:
    """Follows `Gᵀx` for watched gradients `G` and says for which columns it has settled.

    The scores are compared over stretches of a fifth of the iterations done. With changes `c₂`, then `c₁`
    over the last two stretches, what is left is estimated as `c₁ ρ/(1 − ρ)`, `ρ = c₁/c₂`: the sum of the
    changes to come if they go on falling like that. A column has settled when both `c₁` and that estimate
    are at most `rtol` times the norm of its scores, and the sets of its `top_k` largest and smallest watched
    scores are those of a stretch ago.

    Args:
        gradients: `G`, a sample of the gradients whose scores are wanted, as columns.
        rtol: relative change at which a column has settled.
        top_k: size of the sets whose stability is asked for.
        start: iterate that the watched run adds to.
    """

    def __init__(self, gradients: Float[Tensor, "p m"], rtol: float, top_k: int, start: Float[Tensor, "p k"]):
        self._gradients = gradients
        self._rtol = rtol
        self._top_k = min(top_k, gradients.shape[1])
        self._base = gradients.T @ start
        self._scores = self._base
        self._change: Float[Tensor, " k"] | None = None
        self._earlier = torch.zeros_like(start)
        self._next = _SHORTEST
        self.earlier = torch.zeros_like(start)
        self.rate = torch.ones(start.shape[1], dtype=start.dtype, device=start.device)

    def settled(
        self, x: Float[Tensor, "p k"], iteration: int, active: Bool[Tensor, " k"]
    ) -> Bool[Tensor, " k"]:
        """Columns that have settled at this iterate; none but at the end of a stretch.

        For active columns, `earlier` (the iterate a stretch ago) and `rate` (`ρ`) are brought up to date.
        """
        none = torch.zeros_like(active)
        if iteration < self._next:
            return none
        self._next = iteration + max(_SHORTEST, round(_STRETCH * iteration))
        scores = self._base + self._gradients.T @ x
        change = (scores - self._scores).norm(dim=0)
        limit = self._rtol * scores.norm(dim=0)
        result = none
        if self._change is not None:
            tiny = torch.finfo(x.dtype).tiny
            rate = torch.where(change > 0, change / self._change.clamp(min=tiny), torch.zeros_like(change))
            left = torch.where(rate < 1, change * rate / (1 - rate), torch.full_like(rate, torch.inf))
            same = (self._extremes(scores) == self._extremes(self._scores)).all(dim=0)
            result = active & (change <= limit) & (left <= limit) & same
            self.rate = torch.where(active, rate, self.rate)
            self.earlier = torch.where(active, self._earlier, self.earlier)
        self._change, self._scores, self._earlier = change, scores, x.clone()
        return result

    def _extremes(self, scores: Float[Tensor, "m k"]) -> Tensor:
        """Which watched examples are the `top_k` largest and smallest, in the order of their numbers."""
        sides = (scores.topk(self._top_k, dim=0, largest=side).indices for side in (True, False))
        return torch.cat([indices.sort(dim=0).values for indices in sides])
