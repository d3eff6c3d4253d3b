"""Figure 2, left and middle: does influence predict what leave-one-out retraining does?

Ten-class softmax regression on MNIST (n = 55,000, p = 7,840, L2 0.01). For one misread test image, the 500
training images of largest absolute influence are removed one at a time, the model is retrained to its
optimum, and the change of the test image's loss is compared with the influence computed exactly, by CG and by
LiSSA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotting
import softmax_regression as softmax
import torch
from attribution import scores
from experiment import Row, agreement, parser, require_data, run, say, show, write
from mnist import DataError, Split, load_mnist

import wherefrom

ALPHA = 0.01
PAPER_QUERY = 8  # the test image of the released code: a 5 that is read as a 6


@dataclass(frozen=True)
class Settings:
    """Sizes of a run. Tolerances are norms of ∇J."""

    removals: int = 500
    cross_checks: int = 5
    tolerance: float = 1e-12
    lissa_depth: int = 5_000
    lissa_repeats: int = 10
    lissa_scale: float = 25.0
    lissa_batch: int = 1


def experiment(
    train: Split, test: Split, query: int | None, settings: Settings, classes: int = 10
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The whole experiment on arrays: returns the headline numbers, and the points of the figure.

    Raises:
        DataError: the test image asked for is read correctly, or no test image is misread.
        ArithmeticError: training did not reach its optimum.
    """
    problem = softmax.Problem(torch.from_numpy(train.x), torch.from_numpy(train.y), classes, ALPHA)
    say(f"training on {problem.n:,} examples, {classes * train.x.shape[1]:,} parameters")
    started = time.perf_counter()
    optimum, factor = softmax.fit_exact(
        problem, softmax.fit_lbfgs(problem, gradient_tolerance=1e-6), tolerance=settings.tolerance
    )
    training_seconds = time.perf_counter() - started
    predictions = np.asarray((torch.from_numpy(test.x) @ optimum.weights.T).argmax(dim=1))
    query = choose_query(predictions, test.y, query)
    asked = test.take(slice(query, query + 1))

    solvers = {
        "exact": wherefrom.Exact(),
        "cg": wherefrom.CG(rtol=1e-6),
        "lissa": wherefrom.LiSSA(
            scale=settings.lissa_scale,
            depth=settings.lissa_depth,
            repeats=settings.lissa_repeats,
            batch_size=settings.lissa_batch,
        ),
    }
    predicted: dict[str, np.ndarray] = {}
    estimates: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for name, solver in solvers.items():
        say(f"influence of all training examples, solver {name}")
        started = time.perf_counter()
        table = scores(optimum.weights, train, asked, loss="cross_entropy", alpha=ALPHA, solver=solver)
        seconds[name] = time.perf_counter() - started
        predicted[name] = np.asarray(table.values)[0] / problem.n
        if table.error is not None:
            estimates[name] = np.asarray(table.error)[0] / problem.n

    removed = np.argsort(-np.abs(predicted["exact"]), kind="stable")[: settings.removals]
    say(f"retraining without each of {len(removed)} examples")
    started = time.perf_counter()
    retrained = softmax.retrain_without(
        problem, optimum, factor, removed, tolerance=settings.tolerance, progress=_tell
    )
    retraining_seconds = time.perf_counter() - started
    kept = retrained.converged
    if not kept.all():
        say(f"{(~kept).sum()} retrainings did not converge and are left out: rows {removed[~kept].tolist()}")
    x, y = torch.from_numpy(asked.x), torch.from_numpy(asked.y)
    before = softmax.losses(x, y, optimum.weights.unsqueeze(0))[0, 0]
    actual = np.asarray(softmax.losses(x, y, retrained.weights)[:, 0] - before)

    result: dict[str, Any] = {
        name: agreement(values[removed][kept], actual[kept]) | {"seconds": round(seconds[name], 2)}
        for name, values in predicted.items()
    }
    for name, values in estimates.items():
        result[name]["median_error_estimate"] = float(np.median(values[removed][kept]))
    result |= {
        "n": problem.n,
        "p": classes * train.x.shape[1],
        "alpha": ALPHA,
        "query": {
            "row": query,
            "label": int(test.y[query]),
            "read_as": int(predictions[query]),
            "loss": float(before),
        },
        "test_accuracy": float((predictions == test.y).mean()),
        "training": {
            "gradient_norm": optimum.gradient_norm,
            "iterations": optimum.iterations,
            "seconds": round(training_seconds, 2),
        },
        "retraining": {
            "removals": len(removed),
            "converged": int(kept.sum()),
            "largest_gradient_norm": float(retrained.gradient_norm[kept].max()),
            # The loss is √2‖x‖-Lipschitz in W, and the distance to the optimum at most gradient_norm / α.
            "guaranteed_error_of_loss_change": float(
                np.sqrt(2.0) * np.linalg.norm(asked.x) * retrained.gradient_norm[kept].max() / ALPHA
            ),
            "smallest_loss_change": float(np.abs(actual[kept]).min()),
            "largest_loss_change": float(np.abs(actual[kept]).max()),
            "seconds": round(retraining_seconds, 2),
        },
        "cross_check": cross_check(problem, removed, actual, before, x, y, settings.cross_checks),
    }
    points = {name: values[removed][kept] for name, values in predicted.items()}
    points["actual"] = actual[kept]
    if "lissa" in estimates:
        points["lissa_estimate"] = estimates["lissa"][removed][kept]
    return result, points


def choose_query(
    predictions: np.ndarray, labels: np.ndarray, query: int | None, paper: int = PAPER_QUERY
) -> int:
    """The misread test image asked for; without a wish the paper's, or else the first misread one."""
    wrong = np.flatnonzero(predictions != labels)
    if len(wrong) == 0:
        raise DataError(
            "the model misreads no test image, so there is none to explain; give it a larger test set."
        )
    if query is None:
        return paper if paper in wrong else int(wrong[0])
    if query not in wrong:
        raise DataError(
            f"--query {query}: the model reads that test image correctly; misread ones: {wrong[:20].tolist()}"
        )
    return query


def cross_check(
    problem: softmax.Problem,
    removed: np.ndarray,
    actual: np.ndarray,
    before: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    count: int,
) -> dict[str, Any]:
    """Retrain some of them again by plain L-BFGS from zero: another algorithm, another starting point."""
    chosen = (
        np.unique(np.linspace(0, len(removed) - 1, count).astype(int)) if count else np.empty(0, dtype=int)
    )
    differences, norms = [0.0], [0.0]
    for position in chosen:
        say(f"cross-check by L-BFGS from zero without example {removed[position]}")
        again = softmax.fit_lbfgs(problem, without=int(removed[position]), gradient_tolerance=5e-9)
        change = softmax.losses(x, y, again.weights.unsqueeze(0))[0, 0] - before
        differences.append(abs(float(change) - actual[position]) / abs(actual[position]))
        norms.append(again.gradient_norm)
    return {
        "count": len(chosen),
        "largest_relative_difference": max(differences),
        "largest_gradient_norm": max(norms),
    }


def draw(result: dict[str, Any], points: dict[str, np.ndarray]) -> plotting.Figure:
    """Three scatters, predicted against actual."""
    titles = {"exact": "Exact (Cholesky)", "cg": "Conjugate gradients", "lissa": "LiSSA"}
    fig, axes = plotting.figure(1, 3, 12.6, 4.7)
    for axis, (name, title) in zip(axes[0], titles.items()):
        numbers = result[name]
        note = "Pearson {pearson:.5f}\nSpearman {spearman:.5f}\nslope {slope:.3f}".format(**numbers)
        error = points.get("lissa_estimate") if name == "lissa" else None
        plotting.predicted_against_actual(axis, points["actual"], points[name], title, note, error=error)
    axes[0, 0].set_ylabel("predicted change of loss")
    query = result["query"]
    fig.suptitle(
        f"Leave-one-out retraining, MNIST softmax regression (n = {result['n']:,}, p = {result['p']:,}), "
        f"{len(points['actual'])} removals\nloss of test image {query['row']}: "
        f"a {query['label']} read as a {query['read_as']}",
        fontsize=11,
    )
    return fig


def _tell(done: int, total: int) -> None:
    say(f"  retrained {done} of {total}")


def command() -> argparse.ArgumentParser:
    """The options of this experiment."""
    result = parser(__doc__ or "")
    result.add_argument("--query", type=int, help="row of the misread test image (default: the paper's, 8)")
    result.add_argument(
        "--removals", type=int, help="how many training images to remove (default 500; quick 50)"
    )
    return result


def experiment_from(options: argparse.Namespace) -> dict[str, Any]:
    """Load, run, draw and write; returns the headline numbers."""
    train, test = load_mnist(require_data(options.data))
    settings = Settings()
    if options.quick:
        train = train.take(slice(0, 5_000))
        settings = Settings(removals=50, cross_checks=2)
    if options.removals is not None:
        settings = Settings(
            removals=options.removals, cross_checks=min(options.removals, settings.cross_checks)
        )
    result, points = experiment(train, test, options.query, settings)
    plotting.save(draw(result, points), options.out, "figure2")
    write(result, "figure2", options)
    return result


def comparison(result: dict[str, Any]) -> list[Row]:
    """Published numbers beside ours."""
    return [
        Row(
            "2 left, middle",
            f"predicted against actual, {label}: Pearson (Spearman)",
            "on the diagonal; replication 0.998 (0.989)" if name == "exact" else "on the diagonal",
            "{pearson:.5f} ({spearman:.5f}), slope {slope:.3f}".format(**result[name]),
        )
        for name, label in (("exact", "exact"), ("cg", "CG"), ("lissa", "LiSSA"))
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = command().parse_args(argv)
    show(experiment_from(options), options)


if __name__ == "__main__":
    run(main)
