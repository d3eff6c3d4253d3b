"""The spam filter of Figure 6: labels flipped, the training e-mails ranked, labels repaired from the top."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import logistic_regression
import numpy as np
from attribution import self_scores
from enron import BagOfWords
from experiment import say
from mnist import split_of

import wherefrom
from wherefrom.losses import Logistic

ORDERS = ("self_influence", "loss", "random")
STEPS = 6  # 5, 10, … 30 % are checked


@dataclass(frozen=True)
class Settings:
    """Sizes of a run.

    Attributes:
        alpha: L2 of the figure; `others` are compared with it over fewer repeats.
        words: size of the vocabulary.
        tolerance: of `‖∇J‖`; a repeat with a fit that stays above is left out and counted.
    """

    repeats: int = 40
    alpha: float = 1e-3
    others: tuple[float, ...] = (1e-4, 1e-2)
    other_repeats: int = 8
    flipped: float = 0.1
    words: int = 2_000
    min_mails: int = 5
    tolerance: float = 1e-6
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Counts, and true labels −1 and +1 of the training and the test e-mails."""

    bag: BagOfWords
    train_labels: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Repeat:
    """One draw of flipped labels: shares (orders, steps), test accuracies, and the worst `‖∇J‖`."""

    found: np.ndarray
    repaired: np.ndarray
    before: float
    gradient_norm: float


def one_repeat(data: Data, alpha: float, settings: Settings, number: int) -> Repeat:
    """Flip labels, train, rank, repair, train again."""
    rng = np.random.default_rng([settings.seed, number])
    x, truth = data.bag.train, data.train_labels
    n = len(truth)
    step = n // 20
    wrong = np.zeros(n, dtype=bool)
    wrong[rng.choice(n, round(settings.flipped / 0.05) * step, replace=False)] = True
    labels = np.where(wrong, -truth, truth)
    fit = logistic_regression.fit_sparse(x, labels, alpha)
    worst = fit.gradient_norm
    rankings = {
        "self_influence": np.asarray(
            self_scores(
                fit.weights,
                split_of(x.toarray(), labels),
                loss=Logistic(),
                alpha=alpha,
                solver=wherefrom.Exact(),
            ).values
        ),
        "loss": np.logaddexp(0.0, -labels * (x @ fit.weights)),
        "random": rng.permutation(n),
    }
    found = np.zeros((len(ORDERS), STEPS))
    repaired = np.zeros((len(ORDERS), STEPS))
    for row, name in enumerate(ORDERS):
        order = np.argsort(-rankings[name], kind="stable")
        start = fit
        for column in range(STEPS):
            checked = order[: (column + 1) * step]
            found[row, column] = wrong[checked].sum() / wrong.sum()
            better = labels.copy()
            better[checked] = truth[checked]
            start = logistic_regression.fit_sparse(x, better, alpha, start=start.weights)
            repaired[row, column] = accuracy(data, start.weights)
            worst = max(worst, start.gradient_norm)
    return Repeat(found, repaired, accuracy(data, fit.weights), worst)


def accuracy(data: Data, weights: np.ndarray) -> float:
    """Share of the test e-mails on the right side."""
    return float((data.test_labels * (data.bag.test @ weights) > 0).mean())


def summary(data: Data, alpha: float, settings: Settings, repeats: int) -> dict[str, Any]:
    """All repeats at one L2: means and standard errors.

    Raises:
        ArithmeticError: fewer than two repeats converged.
    """
    clean = logistic_regression.fit_sparse(data.bag.train, data.train_labels, alpha)
    done: list[Repeat] = []
    for number in range(repeats):
        one = one_repeat(data, alpha, settings, number)
        if one.gradient_norm > settings.tolerance:
            say(f"  repeat {number}: a fit stopped at ‖∇J‖ = {one.gradient_norm:.1e} and it is left out")
            continue
        done.append(one)
        say(f"  L2 {alpha:g}: repeat {number + 1} of {repeats}")
    if len(done) < 2:
        raise ArithmeticError(
            f"L2 {alpha:g}: {len(done)} of {repeats} repeats converged to ‖∇J‖ ≤ {settings.tolerance:g}; "
            "at least 2 are needed for a standard error"
        )
    found, repaired = (np.stack([getattr(one, key) for one in done]) for key in ("found", "repaired"))
    return {
        "alpha": alpha,
        "repeats": repeats,
        "converged": len(done),
        "largest_gradient_norm": max(one.gradient_norm for one in done),
        "fraction_found": {name: _mean(found[:, row]) for row, name in enumerate(ORDERS)},
        "test_accuracy": {
            "true_labels": accuracy(data, clean.weights),
            "flipped_labels": _mean(np.array([[one.before] for one in done])),
            **{name: _mean(repaired[:, row]) for row, name in enumerate(ORDERS)},
        },
    }


def _mean(values: np.ndarray) -> dict[str, list[float]]:
    """Mean over repeats (rows), and its standard error."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(axis=0).tolist(), "standard_error": error.tolist()}


def experiment(data: Data, settings: Settings) -> dict[str, Any]:
    """The whole experiment on word counts.

    Raises:
        ArithmeticError: fewer than two repeats converged.
    """
    n, words = data.bag.train.shape
    say(f"{n:,} training and {len(data.test_labels):,} test e-mails, {words:,} words")
    started = time.perf_counter()
    main_run = summary(data, settings.alpha, settings, settings.repeats)
    others = {
        f"L2={alpha:g}": summary(data, alpha, settings, settings.other_repeats) for alpha in settings.others
    }
    return {
        "n": n,
        "p": words,
        "test": len(data.test_labels),
        "flipped": round(settings.flipped / 0.05) * (n // 20),
        "checked": [round(0.05 * (step + 1), 2) for step in range(STEPS)],
        **main_run,
        "other_regularisation": others,
        "seconds": round(time.perf_counter() - started, 1),
    }
