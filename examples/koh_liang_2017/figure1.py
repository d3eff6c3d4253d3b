"""Figure 1: what the parts of influence do: the train loss and the Hessian.

Binary logistic regression on MNIST 1-vs-7 and 4-vs-9 (L2 0.01, no bias). In closed form the score of a
training example for a test example is `y_test y · σ(−y_test wᵀx_test) · σ(−y wᵀx) · x_testᵀ H⁻¹ x`. Left out
in turn: the train loss factor `σ(−y wᵀx)`; the Hessian; everything but the inner product; and beside them the
Euclidean distance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import logistic_regression
import numpy as np
import plotting
import scipy.stats
from attribution import scores
from experiment import Row, parser, require_data, run, say, show, write
from mnist import DataError, Split, load_mnist
from scipy.special import expit

import wherefrom
from wherefrom.losses import Logistic

ALPHA = 0.01
PAIRS = ((1, 7), (4, 9))
PAPER_QUERY = 30  # row among the test images of the two digits, as in the released code
VARIANTS = {
    "without_train_loss": "Without the train loss",
    "without_hessian": "Without the Hessian",
    "inner_product": "Inner product  y_test y x_testᵀx",
    "euclidean_distance": "Euclidean distance (negative)",
}


def one_pair(
    train: Split, test: Split, query: int, overview: int | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One pair of digits, labelled −1 and +1, on arrays: headline numbers, and what the figure shows.

    Args:
        query: row of the test image.
        overview: how many test images the typical size of influence is taken over (none: all).

    Raises:
        DataError: `query` is not a row of the test set.
    """
    if not 0 <= query < len(test):
        raise DataError(f"--query {query} is not a row of the {len(test)} test images of these two digits.")
    n = len(train)
    say(f"training logistic regression on {n:,} examples")
    fit = logistic_regression.fit(train.x, train.y, ALPHA)
    everything = np.arange(len(test))[:overview]
    if query not in everything:
        everything = np.append(everything, query)
    say(f"influence of every training example on {len(everything):,} test images")
    table = scores(
        fit.weights, train, test.take(everything), loss=Logistic(), alpha=ALPHA, solver=wherefrom.Exact()
    )
    values = np.asarray(table.values)
    influence = values[int(np.flatnonzero(everything == query)[0])]

    x, y = test.x[query], test.y[query]
    same = train.y == y
    train_loss = expit(-train.y * (train.x @ fit.weights))
    test_loss = expit(-y * (x @ fit.weights))
    similarity = y * train.y * (train.x @ x)
    variants = {
        "without_train_loss": influence / train_loss,
        "without_hessian": test_loss * train_loss * similarity,
        "inner_product": similarity,
        "euclidean_distance": -np.linalg.norm(train.x - x, axis=1),
    }
    typical = np.abs(values).max(axis=1) / n
    result: dict[str, Any] = {
        "n": n,
        "p": train.x.shape[1],
        "alpha": ALPHA,
        "gradient_norm": fit.gradient_norm,
        "test_accuracy": float((test.y * (test.x @ fit.weights) > 0).mean()),
        "query": {
            "row": query,
            "label": int(y),
            "loss": float(np.logaddexp(0.0, -y * (x @ fit.weights))),
        },
        "influence": {
            "standard_deviation": float(influence.std()),
            "largest_loss_change": float(np.abs(influence).max() / n),
            "helpful_share_of_same_label": float((influence[same] > 0).mean()),
            "helpful_share_of_other_label": float((influence[~same] > 0).mean()),
        },
        "typical": {
            "test_images": len(typical),
            "median_largest_loss_change": float(np.median(typical)),
            "mean_largest_loss_change": float(typical.mean()),
        },
    }
    for name, variant in variants.items():
        result[name] = {
            "pearson": float(scipy.stats.pearsonr(variant, influence).statistic),
            "spearman": float(scipy.stats.spearmanr(variant, influence).statistic),
        }
        if name != "euclidean_distance":  # a distance has neither influence's unit nor a sign of its own
            result[name] |= {
                "scale_ratio": float(variant.std() / influence.std()),
                "helpful_share_of_same_label": float((variant[same] > 0).mean()),
                "helpful_share_of_other_label": float((variant[~same] > 0).mean()),
            }
    harmful_same = np.flatnonzero(same)[np.argmin(influence[same])]
    images = {
        "query_image": x,
        "harmful_image": train.x[harmful_same],
        "helpful_image": train.x[int(np.argmax(influence))],
    }
    return result, {"influence": influence, "same": same, **variants, **images}


def experiment(
    pairs: dict[str, tuple[Split, Split]], query: int, overview: int | None
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Every pair, and how the sizes of the first compare with those of the second."""
    result: dict[str, Any] = {}
    points: dict[str, dict[str, np.ndarray]] = {}
    for name, (train, test) in pairs.items():
        result[name], points[name] = one_pair(train, test, query, overview)
    first, second = list(pairs)[:2]
    result["size_ratio"] = {
        "of": f"{first} over {second}",
        "at_the_query": _ratio(result, first, second, "influence", "largest_loss_change"),
        "standard_deviation_at_the_query": _ratio(result, first, second, "influence", "standard_deviation"),
        "median_over_test_images": _ratio(result, first, second, "typical", "median_largest_loss_change"),
    }
    return result, points


def _ratio(result: dict[str, Any], first: str, second: str, group: str, key: str) -> float:
    return result[first][group][key] / result[second][group][key]


def draw(result: dict[str, Any], points: dict[str, dict[str, np.ndarray]]) -> plotting.Figure:
    """A row for each pair: the images, then influence against each variant, coloured by label."""
    fig, axes = plotting.figure(
        len(points), len(VARIANTS) + 1, 17.0, 3.9 * len(points), width_ratios=[0.62] + [1] * len(VARIANTS)
    )
    for row, (name, shown) in zip(axes, points.items()):
        _draw_images(row[0], name, result[name], shown)
        same = shown["same"]
        for axis, (variant, title) in zip(row[1:], VARIANTS.items()):
            for group, color, label in (
                (~same, plotting.ORANGE, "other label"),
                (same, plotting.BLUE, "same label"),
            ):
                axis.scatter(
                    shown[variant][group],
                    shown["influence"][group],
                    s=7,
                    color=color,
                    alpha=0.45,
                    linewidths=0,
                    label=label,
                    rasterized=True,
                )
            numbers = result[name][variant]
            axis.set_title(f"{title}\nSpearman {numbers['spearman']:.2f}", fontsize=10)
            axis.axhline(0.0, color=plotting.GREY, linewidth=0.8, zorder=0)
            axis.set_xlabel("variant")
        row[1].set_ylabel("influence score (positive: helpful)")
        row[1].legend(loc="lower right", markerscale=2.5, handletextpad=0.1)
    fig.suptitle(
        "What the train loss and the Hessian do for influence: every training image, one test image",
        fontsize=12,
    )
    return fig


def _draw_images(
    axis: plotting.Axes, name: str, numbers: dict[str, Any], shown: dict[str, np.ndarray]
) -> None:
    axis.axis("off")
    axis.set_title(f"{name}\nloss {numbers['query']['loss']:.3f}", fontsize=10)
    captions = (
        ("query_image", "test image", plotting.GREY),
        ("helpful_image", "most helpful", plotting.BLUE),
        ("harmful_image", "same label,\nyet most harmful", plotting.ORANGE),
    )
    for place, (key, caption, color) in enumerate(captions):
        inset = axis.inset_axes((0.0, 0.70 - 0.35 * place, 0.5, 0.28))
        plotting.show_digit(inset, shown[key], "", color)
        inset.text(1.12, 0.5, caption, transform=inset.transAxes, va="center", fontsize=9)


def command() -> argparse.ArgumentParser:
    """The options of this experiment."""
    result = parser(__doc__ or "")
    result.add_argument(
        "--query", type=int, default=PAPER_QUERY, help="row among the test images of the two digits"
    )
    return result


def experiment_from(options: argparse.Namespace) -> dict[str, Any]:
    """Load, run, draw and write; returns the headline numbers."""
    train, test = load_mnist(require_data(options.data))
    pairs = {f"{a}-vs-{b}": (train.pair(a, b), test.pair(a, b)) for a, b in PAIRS}
    if options.quick:
        pairs = {name: (part.take(slice(0, 3_000)), whole) for name, (part, whole) in pairs.items()}
    result, points = experiment(pairs, options.query, overview=200 if options.quick else None)
    plotting.save(draw(result, points), options.out, "figure1")
    write(result, "figure1", options)
    return result


def comparison(result: dict[str, Any]) -> list[Row]:
    """Published numbers beside ours."""
    rows = []
    for name in (f"{a}-vs-{b}" for a, b in PAIRS):
        one = result[name]
        with_hessian = one["influence"]["helpful_share_of_same_label"]
        without = one["without_hessian"]["helpful_share_of_same_label"]
        rows += [
            Row(
                "1",
                f"{name}: scale without the train loss, relative to influence",
                "too large",
                f"{one['without_train_loss']['scale_ratio']:.1f}×",
            ),
            Row(
                "1",
                f"{name}: same-label images that look helpful without the Hessian (with it)",
                "all",
                f"{without:.0%} ({with_hessian:.0%})",
            ),
        ]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = command().parse_args(argv)
    show(experiment_from(options), options)


if __name__ == "__main__":
    run(main)
