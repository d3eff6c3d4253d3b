"""Self-influence: how much each training example rests on itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.influence.scores import solver_state
from wherefrom.influence.tables import known

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SelfScores:
    """`g_iᵀ C_λ⁻¹ g_i ≥ 0`: how much the loss of example `i` would rise without it, times `n`.

    Attributes:
        index: training indices, shape `(k,)`.
        values, error, bound: score, expected solver error, and its bound, each `(k,)`; the errors are
            infinite where they are not known.
        converged: per example; `reason` for those that are not.
        settings: as in `Scores`.
        identity: a fingerprint of the fit.
    """

    index: Int[Tensor, " k"]
    values: Float[Tensor, " k"]
    error: Float[Tensor, " k"]
    bound: Float[Tensor, " k"]
    converged: Bool[Tensor, " k"]
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        state = solver_state(self.values, self.error, self.bound, self.converged)
        solver = self.settings.get("solver")
        return f"SelfScores({len(self)} examples, solver={solver!r}, {state}, top={self.top(3)})"

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example: `train, self_influence, error, bound`; errors that are not known are
        missing."""
        import pandas

        return pandas.DataFrame(
            {
                "train": self.index.numpy(),
                "self_influence": self.values.numpy(),
                "error": known(self.error.numpy()),
                "bound": known(self.bound.numpy()),
            }
        )

    def top(self, k: int = 10) -> list[tuple[int, float]]:
        """The `k` examples that rest most on themselves, `(training index, self-influence)`: the place to
        look for wrong labels.

        Raises:
            InputError: `k` is no whole number of at least 1.
        """
        k = whole("k", k, 1)
        order = torch.argsort(self.values, descending=True, stable=True)[:k]
        return [(int(self.index[i]), float(self.values[i])) for i in order]
