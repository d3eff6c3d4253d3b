"""The noise of training itself: what two trainings on the same examples differ by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from wherefrom.evaluation.retraining import Retraining
from wherefrom.task import Data

# A shift of a query that all removals share counts as such where it is so many times what they differ by.
_SHARED = 3.0
# Fewer removals than this have no "all".
_FEWEST = 3
_PERMUTATIONS = 999
# An agreement that random assignments reach more rarely is no chance.
CHANCE = 0.01
# The noise shown by a few trainings is smaller than this quantile's as rarely.
_DOUBT = 0.05


def another_full_run(
    retraining: Retraining, data: Data, seeds: Sequence[int]
) -> Float[np.ndarray, "q ..."] | None:
    """The measurement after one more training on all the data, with a seed that was not given and the
    examples in the reverse order; `None` if it did not converge.

    The order is changed too because many recipes shuffle by a seed of their own: they give the same model for
    every `seed`, and another one as soon as an example is taken out and all others move up.
    """
    order = range(data.n - 1, -1, -1)
    found = retraining.measured("all-reversed", lambda: data.reordered(order), max(seeds) + 1)
    return None if isinstance(found, str) else found


def training_spread(
    runs: Sequence[Float[np.ndarray, " q"]], another: Float[np.ndarray, " q"] | None
) -> Float[np.ndarray, " q"]:
    """Standard deviation of a query's measurement over trainings on all the data; NaN where only one of them
    is known. Seeds that give the same model are one training."""
    if another is None and len(runs) < 2:
        return np.full_like(runs[0], np.nan)
    known = [*np.unique(runs, axis=0), *([] if another is None else [another])]
    return np.std(known, axis=0, ddof=1) if len(known) > 1 else np.zeros_like(runs[0])


def noise_of_mean(
    differences: Float[np.ndarray, "s *r q"], spread: Float[np.ndarray, " q"]
) -> Float[np.ndarray, "*r q"]:
    """Standard error of the mean over seeds of differences between two trainings.

    From the differences themselves for two seeds or more. For one seed, or several that the recipe does not
    use, it is at most `√2` times the spread of trainings on all the data: less where the two trainings of a
    seed go astray together.
    """
    if seeds_differ(differences):
        return np.std(differences, axis=0, ddof=1) / len(differences) ** 0.5
    return np.broadcast_to(2**0.5 * spread, differences[0].shape).copy()


def seeds_differ(differences: Float[np.ndarray, "s *r q"]) -> bool:
    """Whether the recipe uses its seed, and more than one was given."""
    return len(differences) > 1 and bool(np.ptp(differences, axis=0).any())


def centred(values: Float[np.ndarray, "r q"]) -> Float[np.ndarray, "r q"]:
    """Differences between the removals: what all of them share, query by query, is taken away."""
    return values - values.mean(axis=0)


def reliability(
    actual: Float[np.ndarray, "r q"],
    noise: Float[np.ndarray, "r q"],
    by_seed: Float[np.ndarray, "s r q"] | None,
) -> float:
    """The share of what is seen in `actual` that is no noise, between 0 and 1: a cautious estimate, which
    is near 1 only where that is beyond doubt. Its square root is a correlation that perfect predictions would
    reach.

    From the noise: one minus the largest noise that a few trainings may have shown so little of (the 5 %
    point of `χ²`, counting queries that move together as one). From several seeds: how they correlate between
    the removals, stepped up to their mean (Spearman and Brown 1910), if chance rarely gives as much. The
    larger counts.
    """
    if not np.isfinite(noise).all():
        return 0.0
    if not noise.any():
        return 1.0
    several = by_seed is not None and seeds_differ(by_seed)
    runs = len(by_seed) - 1 if several and by_seed is not None else 1
    found = _from_noise(actual, noise, runs, alone=not several)
    if several and by_seed is not None and len(actual) > 1:
        found = max(found, _from_seeds(by_seed))
    return found


def _from_noise(actual: np.ndarray, noise: np.ndarray, runs: int, *, alone: bool) -> float:
    r, q = actual.shape
    single = float(np.mean(noise**2))
    if r > 1:
        # The difference of two removals does not hold the noise of the training on all the data.
        differences = centred(actual)
        seen = float(np.sum(differences**2)) / ((r - 1) * q)
        single = single / 2 if alone else single
    else:
        differences, seen = actual, float(np.mean(actual**2))
    if seen == 0:
        return 0.0
    freedom = runs * _independent(differences)
    largest = single * freedom / float(stats.chi2.ppf(_DOUBT, freedom))
    return float(np.clip(1 - largest / seen, 0.0, 1.0))


def _independent(differences: np.ndarray) -> float:
    """How many queries move apart from each other: `(Σλ)²/Σλ²` of their covariance."""
    squares = np.linalg.svd(differences, compute_uv=False) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def _from_seeds(by_seed: np.ndarray) -> float:
    parts = [centred(one) for one in by_seed]

    def among(tables: Sequence[np.ndarray]) -> float:
        rows = np.stack([table.ravel() for table in tables])
        size = np.linalg.norm(rows, axis=1)
        if not size.all():
            return 0.0
        s = len(rows)
        return float(((rows @ rows.T) / np.outer(size, size)).sum() - s) / (s * (s - 1))

    mean, s = among(parts), len(parts)
    if mean <= 0:
        return 0.0
    generator = np.random.default_rng(0)
    as_good = sum(
        among([table[generator.permutation(len(table))] for table in parts]) >= mean
        for _ in range(_PERMUTATIONS)
    )
    if (1 + as_good) / (1 + _PERMUTATIONS) > CHANCE:
        return 0.0
    return float(np.clip(s * mean / (1 + (s - 1) * mean), 0.0, 1.0))


def shares_a_shift(predicted: Float[np.ndarray, "r q"], actual: Float[np.ndarray, "r q"]) -> bool:
    """Whether all removals change a query by about the same, though they were predicted to differ: then it
    was the training on all the data that went elsewhere."""
    if len(actual) < _FEWEST:
        return False
    return _shared(actual) > _SHARED * max(1.0, _shared(predicted))


def agreement_within(
    predicted: Float[np.ndarray, "r q"], actual: Float[np.ndarray, "r q"]
) -> tuple[float, float]:
    """Pearson correlation of the differences between removals, and the share of random assignments of the
    retrainings to the removals that correlate as well: noise knows nothing of the predictions.

    NaN and 1 where there is nothing to correlate.
    """
    p, a = centred(predicted), centred(actual)
    size = float(np.linalg.norm(p) * np.linalg.norm(a))
    if size == 0:
        return float("nan"), 1.0
    found = float((p * a).sum()) / size
    generator = np.random.default_rng(0)
    rows = [generator.permutation(len(a)) for _ in range(_PERMUTATIONS)]
    as_good = sum(float((p * a[row]).sum()) / size >= found for row in rows)
    return found, (1 + as_good) / (1 + _PERMUTATIONS)


def _shared(values: np.ndarray) -> float:
    """Size of the shift that all rows share, relative to what they differ by."""
    rest = float(np.linalg.norm(centred(values)) / (len(values) - 1) ** 0.5)
    shift = float(np.linalg.norm(values.mean(axis=0)))
    return shift / rest if rest > 0 else float("inf") if shift > 0 else 0.0
