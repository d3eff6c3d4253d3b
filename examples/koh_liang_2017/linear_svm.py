"""A linear support vector machine without bias, solved and re-solved to the exact optimum of its dual.

`J(w) = (1/n) Σ_j max(0, 1 − y_j wᵀx_j) + (α/2)‖w‖²`. With `w(u) = (1/(αn)) Σ_j u_j y_j x_j` the dual is

    maximise (1/n) Σ_j u_j − (α/2)‖w(u)‖²   subject to 0 ≤ u_j ≤ 1,

and its optimum puts every example in one of three sets: beyond the margin (`u = 0`), inside it (`u = 1`), or
exactly on it (`u` between). Given the sets, `u` on the margin solves a small linear system, so the optimum is
reached to rounding and not to a solver's tolerance: an active-set method (as in Cauwenberghs & Poggio 2000),
started from liblinear's answer for the first fit and from the full solution for each removal. Removing `i`
fixes `u_i = 0`: weights stay `1/n`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from sklearn.svm import LinearSVC

SLACK = 1e-10  # how far over the margin counts as a violation; margins are of order 1


@dataclass(frozen=True)
class Svm:
    """An optimum and its certificate.

    Attributes:
        weights: (d,) float64.
        dual: (n,) u_j in [0, 1].
        on_margin: (m,) rows whose u_j is free: their margin y_j wᵀx_j is 1.
        gap: duality gap J(w) − D(u), of which ‖w − w*‖ ≤ √(2 gap / α) follows.
        violation: the largest violation of the optimality conditions by any example's margin.
        converged: whether the active-set method ended by optimality and not by its step limit.
        steps: changes of the active set.
    """

    weights: np.ndarray
    dual: np.ndarray
    on_margin: np.ndarray
    gap: float
    violation: float
    converged: bool
    steps: int


def fit(signed: np.ndarray, alpha: float, *, max_steps: int = 20_000) -> Svm:
    """The optimum on all examples, given their rows y_j x_j, (n, d) float64."""
    n, d = signed.shape
    labels = np.where(np.arange(n) % 2, 1.0, -1.0)  # any signs do: the rows carry the true ones
    first = LinearSVC(
        loss="hinge", C=1.0 / (alpha * n), fit_intercept=False, tol=1e-6, max_iter=20_000, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only a starting point: whether it converged does not matter
        first.fit(signed * labels[:, None], labels)
    margins = signed @ first.coef_[0]
    # A guess of the three sets; free ones start in the middle, the rest at the bound they are surely at.
    near = np.abs(margins - 1.0)
    free = np.argsort(near)[: min(n, d // 2)]
    free = free[near[free] < 1e-3]
    dual = (margins < 1.0).astype(np.float64)
    dual[free] = 0.5
    return _solve(signed, alpha, dual, free, None, max_steps)


def refit_without(
    signed: np.ndarray, alpha: float, full: Svm, removed: int, *, max_steps: int = 5_000
) -> Svm:
    """The optimum without one example, weights 1/n kept, started from the full optimum."""
    dual = full.dual.copy()
    dual[removed] = 0.0
    return _solve(signed, alpha, dual, full.on_margin[full.on_margin != removed], removed, max_steps)


def hinge(margins: np.ndarray) -> np.ndarray:
    """max(0, 1 − s)."""
    return np.maximum(0.0, 1.0 - margins)


def _solve(
    signed: np.ndarray, alpha: float, dual: np.ndarray, free: np.ndarray, removed: int | None, max_steps: int
) -> Svm:
    """Primal active-set method on the dual, from any feasible `dual`."""
    n = len(signed)
    scale = 1.0 / (alpha * n)
    allowed = np.ones(n, dtype=bool)
    if removed is not None:
        allowed[removed] = False
    free = np.asarray(free, dtype=np.int64)
    weights = _weights(signed, dual, scale)
    steps, converged = 0, False
    while steps < max_steps:
        steps += 1
        if len(free):
            # The change of the free u_j that puts them all exactly on the margin, as far as 0 ≤ u ≤ 1 allows.
            rows = signed[free]
            target = scipy.linalg.solve(scale * rows @ rows.T, 1.0 - rows @ weights, assume_a="pos")
            share, blocking = _longest_step(dual[free], target)
            dual[free] += share * target
            weights += scale * share * (target @ rows)
            if blocking is not None:
                dual[free[blocking]] = 1.0 if target[blocking] > 0 else 0.0
                free = np.delete(free, blocking)
                continue
        violation = _violations(signed @ weights, dual, free, allowed)
        worst = int(np.argmax(violation))
        if violation[worst] <= SLACK:
            converged = True
            break
        free = np.append(free, worst)
    weights = _weights(signed, dual, scale)
    margins = signed @ weights
    primal = hinge(margins[allowed]).sum() / n + 0.5 * alpha * weights @ weights
    gap = float(primal - (dual.sum() / n - 0.5 * alpha * weights @ weights))
    violation = _violations(margins, dual, free, allowed)
    violation[free] = np.abs(margins[free] - 1.0)
    return Svm(weights, dual, np.sort(free), gap, float(violation.max()), converged, steps)


def _weights(signed: np.ndarray, dual: np.ndarray, scale: float) -> np.ndarray:
    """`w(u)`, from the support vectors alone."""
    support = np.flatnonzero(dual)
    return scale * (dual[support] @ signed[support])


def _longest_step(dual: np.ndarray, change: np.ndarray) -> tuple[float, int | None]:
    """The share of `change` that keeps 0 ≤ u ≤ 1, and which entry stops it (none: the whole step fits)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(change > 0, (1.0 - dual) / change, np.where(change < 0, -dual / change, np.inf))
    tightest = int(np.argmin(room))
    if room[tightest] >= 1.0:
        return 1.0, None
    return float(max(room[tightest], 0.0)), tightest


def _violations(margins: np.ndarray, dual: np.ndarray, free: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """How far each example at a bound is on the wrong side of the margin; free and removed ones count 0."""
    wrong = np.where(dual <= 0.0, 1.0 - margins, margins - 1.0)
    wrong[free] = 0.0
    wrong[~allowed] = 0.0
    return np.maximum(wrong, 0.0)
