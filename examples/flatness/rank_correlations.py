"""Spearman rank correlations with bootstrap intervals, over all networks and among those of one start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of `n` networks, with the 2.5 % and 97.5 % quantiles of a bootstrap over networks."""

    rho: float
    low: float
    high: float
    n: int


def rank_correlation(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray | None = None, *, draws: int = 2000, seed: int = 0
) -> RankCorrelation:
    """Spearman's ρ of `a` and `b`.

    Args:
        groups: a label for each entry. If given, entries are ranked within their group, and each group's mean
            rank is subtracted: what the groups differ by is left out.
        draws, seed: of the bootstrap over entries.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    groups = np.zeros(len(a), dtype=int) if groups is None else np.asarray(groups)
    generator = np.random.default_rng(seed)
    samples = [generator.integers(len(a), size=len(a)) for _ in range(draws)]
    drawn = np.array([_rho(a[rows], b[rows], groups[rows]) for rows in samples])
    drawn = drawn[np.isfinite(drawn)]  # a sample of one network alone has no ranks
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return RankCorrelation(_rho(a, b, groups), float(low), float(high), len(a))


def _rho(a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> float:
    ranks = [np.empty(len(a)), np.empty(len(a))]
    for group in np.unique(groups):
        rows = groups == group
        for rank, values in zip(ranks, (a, b)):
            ordered = stats.rankdata(values[rows])
            rank[rows] = ordered - ordered.mean()
    size = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / size) if size > 0 else float("nan")
