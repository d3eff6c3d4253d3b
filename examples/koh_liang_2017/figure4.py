"""Figure 4: which training images two kinds of model lean on: a head on features, and a kernel machine.

Logistic regression on the features of a convolutional network against a support vector machine with an RBF
kernel on raw pixels, two classes of CIFAR-10, 1,800 training images. For a test image that both read
correctly: influence of every training image against its Euclidean distance in pixels. The kernel machine is
linear in an exact map of finite dimension: with `K = L Lᵀ` the rows of `L` stand for the training images
and `L⁻¹ k(x)` for any other; influence is computed there with a smooth hinge at the parameters that scikit-
learn's SVC has found.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import conv_head
import convnet
import numpy as np
import plotting
import scipy.linalg
import scipy.stats
import torch
from cifar10 import load_cifar10
from cifar_pair import Pair, network_for, pair_of
from data_files import DataError
from experiment import Row, parser, require_data, run, say, show, write
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

import wherefrom
from wherefrom.losses import Logistic, Loss, SmoothHinge

ALPHA_HEAD = 1e-3  # L2 of the head, for features of mean squared norm 1
COST = 1.0  # C of the support vector machine: an L2 of 1/(C n)
TEMPERATURE = 0.001  # of the smooth hinge
NEAREST = 0.05
MODELS = {"svm": "RBF support vector machine on pixels", "network": "Linear head on convolutional features"}


def kernel_map(kernel: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features whose inner products are the kernel: rows of `L` (n, n), and `L⁻¹ k(x)` of the others (m, n).

    Args:
        kernel: (n, n) positive definite, among the training images.
        others: (m, n) between the other images and those.

    Raises:
        DataError: the kernel is not positive definite: some training images are the same.
    """
    try:
        factor = scipy.linalg.cholesky(kernel, lower=True)
    except scipy.linalg.LinAlgError as error:
        raise DataError(
            f"the kernel matrix is not positive definite ({error}): are images repeated?"
        ) from error
    return factor, scipy.linalg.solve_triangular(factor, others.T, lower=True).T


def svm(
    x: np.ndarray, y: np.ndarray, xq: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """A support vector machine on rows of pixels: features of both sets, weights, bias, `1/(C n)`."""
    gamma = 1.0 / (x.shape[1] * x.var())
    kernel, others = rbf_kernel(x, gamma=gamma), rbf_kernel(xq, x, gamma=gamma)
    machine = SVC(C=COST, kernel="precomputed", tol=1e-6).fit(kernel, y)
    features, asked = kernel_map(kernel, others)
    weights = features[machine.support_].T @ machine.dual_coef_[0]
    return features, asked, weights, float(machine.intercept_[0]), 1.0 / (COST * len(y))


def shortfall(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Minus the margin, −y f (b,): influences on a loss are these times a factor for each test image, which
    for a hinge is zero wherever the margin exceeds 1."""
    return -(targets * outputs)[:, 0]


def influence(
    features: np.ndarray,
    y: np.ndarray,
    asked: np.ndarray,
    asked_y: np.ndarray,
    weights: np.ndarray,
    bias: float | None,
    loss: Loss,
    alpha: float,
) -> np.ndarray:
    """Scores (m, n) of minus the margin: positive is helpful. A bias is not penalised."""
    model = torch.nn.Linear(len(weights), 1, bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weights)[None])
        if bias is not None:
            model.bias.fill_(bias)
    fitted = wherefrom.Influence(
        model.eval(),
        (torch.from_numpy(features), torch.from_numpy(y).double()[:, None]),
        loss=loss,
        weight_decay={"weight": alpha},
        solver=wherefrom.Exact(),
        damping=0.0,
        progress=False,
    ).fit()
    queries = (torch.from_numpy(asked), torch.from_numpy(asked_y).double()[:, None])
    table = fitted.scores(queries, shortfall)
    return np.asarray(table.values)


def closeness(scores: np.ndarray, distance: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """How much the influence on one test image goes with nearness and with the class.

    Returns `spearman` of |influence| and distance (negative: near images weigh more), `nearest_share` (of
    the total |influence|, held by the nearest 5 %; 0.05 if nearness did not matter), and of the
    |influence| of either class the share that is helpful.
    """
    size = np.abs(scores)
    nearest = np.argsort(distance, kind="stable")[: max(1, round(NEAREST * len(distance)))]
    return {
        "spearman": float(scipy.stats.spearmanr(size, distance).statistic),
        "nearest_share": float(size[nearest].sum() / size.sum()),
        "helpful_weight_of_same_class": float(scores[same].clip(0).sum() / size[same].sum()),
        "helpful_weight_of_other_class": float(scores[~same].clip(0).sum() / size[~same].sum()),
    }


def experiment(
    pair: Pair, network: torch.nn.Module, query: int | None, overview: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both models on arrays: the headline numbers, and the points of the figure.

    Args:
        query: row of the test image that is shown; the first that both models read correctly when absent.
        overview: how many test images the medians are taken over, at most.

    Raises:
        DataError: no test image, or not the one asked for, is read correctly by both.
    """
    train, test = pair.train, pair.test
    x, xq = (convnet.pixels(images).double() for images in (train, test))
    flat, flat_q = (part.flatten(1).numpy() for part in (x, xq))
    say(f"training both models on {len(train):,} images")
    raw = convnet.outputs(network, x)
    reader = conv_head.FrozenFeatures(network, raw, None)
    features, asked = reader.reduce(raw).numpy(), reader.reduce(convnet.outputs(network, xq)).numpy()
    weights = conv_head.fit(features, train.y, ALPHA_HEAD)
    kernel = svm(flat, train.y, flat_q)
    outputs = {"svm": kernel[1] @ kernel[2] + kernel[3], "network": asked @ weights}
    correct = np.flatnonzero(np.all([test.y * output > 0 for output in outputs.values()], axis=0))
    query = choose(correct, query)
    rows = np.unique(np.append(correct[:overview], query))
    say(f"influence of every training image on {len(rows)} test images")
    scores = {
        "svm": influence(
            kernel[0],
            train.y,
            kernel[1][rows],
            test.y[rows],
            *kernel[2:4],
            SmoothHinge(TEMPERATURE),
            kernel[4],
        ),
        "network": influence(
            features, train.y, asked[rows], test.y[rows], weights, None, Logistic(), ALPHA_HEAD
        ),
    }
    distance = np.linalg.norm(flat_q[rows][:, None] - flat[None], axis=2)
    same = train.y[None] == test.y[rows][:, None]
    here = int(np.flatnonzero(rows == query)[0])
    result: dict[str, Any] = {
        "n": len(train),
        "classes": list(pair.names),
        "test_images": len(test),
        "query": {"row": query, "label": int(test.y[query])},
    }
    for name, table in scores.items():
        every = [closeness(*one) for one in zip(table, distance, same)]
        helpful, harmful = (
            np.argsort(-table[here], kind="stable")[:10],
            np.argsort(table[here], kind="stable")[:10],
        )
        result[name] = {
            "test_accuracy": float((test.y * outputs[name] > 0).mean()),
            **closeness(table[here], distance[here], same[here]),
            "same_class_among_10_most_helpful": int(same[here][helpful].sum()),
            "same_class_among_10_most_harmful": int(same[here][harmful].sum()),
            "median": {key: float(np.median([one[key] for one in every])) for key in every[0]},
        }
    result["overview"] = len(rows)
    points = {name: table[here] for name, table in scores.items()}
    return result, points | {"distance": distance[here], "same": same[here], "image": test.pixels[query]}


def choose(correct: np.ndarray, query: int | None) -> int:
    """The test image to show: the one asked for, else the first that both models read correctly.

    Raises:
        DataError: there is none, or the one asked for is not such an image.
    """
    if not len(correct):
        raise DataError("no test image is read correctly by both models")
    if query is None:
        return int(correct[0])
    if query not in correct:
        raise DataError(
            f"--query {query} is not a test image that both models read correctly; {correct[0]} is"
        )
    return query


def draw(result: dict[str, Any], points: dict[str, Any]) -> plotting.Figure:
    """Influence against distance, a panel for each model, coloured by class; the test image in the corner."""
    fig, axes = plotting.figure(1, 2, 12.0, 4.8)
    same = points["same"]
    for axis, (name, title) in zip(axes[0], MODELS.items()):
        for group, color, label in (
            (~same, plotting.ORANGE, "other class"),
            (same, plotting.BLUE, "same class"),
        ):
            axis.scatter(
                points["distance"][group],
                points[name][group],
                s=10,
                color=color,
                alpha=0.5,
                linewidths=0,
                label=label,
                rasterized=True,
            )
        numbers = result[name]
        axis.axhline(0.0, color=plotting.GREY, linewidth=0.8, zorder=0)
        axis.set(xlabel="Euclidean distance to the test image, pixels in [0, 1]")
        axis.set_title(
            f"{title}\nnearest 5 % hold {numbers['nearest_share']:.0%} of all |influence|, "
            f"Spearman {numbers['spearman']:.2f}",
            fontsize=10,
        )
    axes[0, 0].set_ylabel("influence score (positive: helpful)")
    axes[0, 0].legend(loc="lower right", markerscale=2.0, handletextpad=0.1)
    inset = axes[0, 1].inset_axes((0.84, 0.76, 0.15, 0.22))
    inset.imshow(points["image"].transpose(1, 2, 0), interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    inset.grid(False)
    fig.suptitle(
        f"{result['classes'][0]} or {result['classes'][1]}: every training image, one test image", fontsize=12
    )
    return fig


def command() -> argparse.ArgumentParser:
    """The options of this experiment."""
    result = parser(__doc__ or "")
    result.add_argument("--query", type=int, help="row among the test images of the two classes")
    return result


def experiment_from(options: argparse.Namespace) -> dict[str, Any]:
    """Load, train, compare, draw and write; returns the headline numbers."""
    torch.set_num_threads(1)
    pair = pair_of(*load_cifar10(require_data(options.data)), per_class=300 if options.quick else 900)
    network = network_for(pair, options.out, quick=options.quick)
    result, points = experiment(pair, network.features, options.query, overview=20 if options.quick else 100)
    plotting.save(draw(result, points), options.out, "figure4")
    write(result, "figure4", options)
    return result


def comparison(result: dict[str, Any]) -> list[Row]:
    """What the paper says in words, and our numbers."""
    said = {"svm": "near images weigh most", "network": "hardly depends on distance"}
    return [
        Row(
            "4",
            f"{MODELS[name]}: Spearman of |influence| and distance (median over {result['overview']} images)",
            said[name],
            "{spearman:.2f}; nearest 5 % hold {nearest_share:.0%}".format(**result[name]["median"]),
        )
        for name in MODELS
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = command().parse_args(argv)
    show(experiment_from(options), options)


if __name__ == "__main__":
    run(main)
