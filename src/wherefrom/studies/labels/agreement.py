"""How far the signs of a wrong label agree with one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Agreement:
    """Every signal against every other.

    Attributes:
        names: of the `s` signals.
        spearman: rank correlations over all examples, `(s, s)`; NaN for a signal that is the same everywhere.
        overlap: share of the `k` most suspicious examples that two signals have in common, `(s, s)`.
        k: for the overlap.
    """

    names: tuple[str, ...]
    spearman: Float[Tensor, "s s"]
    overlap: Float[Tensor, "s s"]
    k: int

    def to_pandas(self) -> pandas.DataFrame:
        """One row per pair: `signal, other, spearman, overlap`."""
        import pandas

        pairs = [(a, b) for a in range(len(self.names)) for b in range(a + 1, len(self.names))]
        return pandas.DataFrame(
            {
                "signal": [self.names[a] for a, _ in pairs],
                "other": [self.names[b] for _, b in pairs],
                "spearman": [float(self.spearman[pair]) for pair in pairs],
                "overlap": [float(self.overlap[pair]) for pair in pairs],
            }
        )

    def __repr__(self) -> str:
        width = max(map(len, self.names)) + 3
        head = " " * width + "".join(f"{number:>6}" for number in range(1, len(self.names) + 1))
        lines = [f"rank correlation (above), share of the top {self.k} in common (below the diagonal)", head]
        for a, name in enumerate(self.names):
            cells = [
                "     ·" if a == b else f"{float((self.spearman if a < b else self.overlap)[a, b]):>6.2f}"
                for b in range(len(self.names))
            ]
            lines.append(f"{a + 1:<3}{name:<{width - 3}}" + "".join(cells))
        return "\n".join(lines)


def agreement(signals: Mapping[str, Float[Tensor, " n"]], k: int) -> Agreement:
    """Rank correlations of signals and the overlap of their `k` most suspicious examples.

    Raises:
        InputError: no signal, or `k` outside `1 … n`.
    """
    if not signals:
        raise InputError("signals is empty: expected at least one")
    values = torch.stack(list(signals.values())).double()
    n = values.shape[1]
    k = whole("k", k, 1, n)
    ranks = torch.stack([ranked(row) for row in values])
    centred = ranks - ranks.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    # A constant signal has no ranks to correlate: 0/0, said as NaN.
    spearman = (centred @ centred.T) / (norms[:, None] * norms[None])
    top = torch.zeros_like(values).scatter(1, values.argsort(dim=1, descending=True, stable=True)[:, :k], 1.0)
    return Agreement(tuple(signals), spearman, top @ top.T / k, k)


def ranked(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks from 0 (least) to 1 (most), equal values sharing the mean of theirs."""
    ranks = torch.from_numpy(rankdata(values.double().numpy()))
    return (ranks - 1.0) / max(len(ranks) - 1, 1)
