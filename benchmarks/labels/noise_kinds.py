"""Kinds of label noise: planted ones with a known truth, and imitations of what people confuse."""

from __future__ import annotations

import numpy as np
from noisy_labels import flip
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_predict

KINDS = ("none", "uniform-10", "uniform-30", "pairs-15", "hard-15")


def noisy(kind: str, x: np.ndarray, y: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels with noise of a kind.

    Args:
        kind: `none`; `uniform-S`: `S` % flipped to any other class; `pairs-S`: each class only to the one it
            is confused with most; `hard-S`: examples that a forest, not trained on them, finds hard, to the
            class that it takes them for.
        x, y: features and true labels, `(n, d)` and `(n,)`.
    """
    if kind == "none":
        return y.copy()
    name, percent = kind.split("-")
    share = int(percent) / 100
    if name == "uniform":
        return flip(y, classes, share, rng)
    forest = RandomForestClassifier(100, random_state=0, min_samples_leaf=2)
    likely = cross_val_predict(forest, x, y, cv=3, method="predict_proba")
    others = likely.copy()
    others[np.arange(len(y)), y] = -1.0
    made = y.copy()
    if name == "pairs":
        sums = np.stack([likely[y == c].sum(0) for c in range(classes)])
        np.fill_diagonal(sums, -1.0)
        chosen = rng.permutation(len(y))[: round(share * len(y))]
        made[chosen] = sums.argmax(1)[y[chosen]]
        return made
    doubt = 1.0 - likely[np.arange(len(y)), y] + 0.02
    chance = np.minimum(0.9, doubt * share / doubt.mean())
    for _ in range(20):  # the cap of 0.9 takes some away
        chance = np.minimum(0.9, chance * share / chance.mean())
    chosen = rng.random(len(y)) < chance
    made[chosen] = others.argmax(1)[chosen]
    return made
