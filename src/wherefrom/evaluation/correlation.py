"""Predicted against actual changes, in one number."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats


def pearson(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Pearson correlation; NaN for fewer than two, where either is constant, and where one is not finite."""
    return _correlation(stats.pearsonr, predicted, actual)


def spearman(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Spearman rank correlation; NaN as for `pearson`."""
    return _correlation(stats.spearmanr, predicted, actual)


def slope(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Least squares through the origin of actual on predicted: 1 means the sizes are right too."""
    energy = float(predicted @ predicted)
    return float(predicted @ actual) / energy if energy > 0 else float("nan")


def _correlation(function: Any, a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(function(a, b).statistic)
