"""Figure 2, right: influence on a network that is not convex and not quite at a minimum.

A convolutional network with tanh (2,616 parameters, weight decay 0.001) on a tenth of MNIST. Scores for one
misread test image are computed with the Hessian plus damping 0.01 (and, beside it, the Gauss-Newton matrix),
and the 100 training images of largest absolute influence are left out one at a time. Training then goes on
from the trained parameters, and the test image's loss is compared with what it is when training goes on in
the same steps with all images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotting
import small_cnn
import torch
from counts import at_least
from experiment import Row, agreement, parser, require_data, run, say, show, write
from figure2 import choose_query
from mnist import Split, load_mnist
from network_attribution import network_scores

ALPHA = 0.001
DAMPING = 0.01
PAPER_QUERY = 6558  # the test image of the released code
PAPER = "0.86 (released notebook 0.875)"
CURVATURES = {"hessian": "Hessian", "ggn": "Gauss-Newton"}


RETRAINING = small_cnn.Steps(rate=0.02, momentum=0.9, batch=100, count=150, seed=1)


@dataclass(frozen=True)
class Settings:
    """Sizes of a run.

    Attributes:
        width: channels of the network.
        epochs, rate, batch, seed: of its training.
        rtol: of conjugate gradients, on the residual.
        retraining: how training goes on.
        second_order: seed of another order of the batches, in which `checked` of the removals are repeated.
    """

    width: int = 8
    epochs: int = 80
    rate: float = 0.01
    batch: int = 50
    seed: int = 0
    rtol: float = 1e-2
    removals: int = 100
    retraining: small_cnn.Steps = RETRAINING
    checked: int = 10
    second_order: int = 2


def images(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 1, side, side) in float32 and labels (n,)."""
    side = round(split.x.shape[1] ** 0.5)
    return torch.from_numpy(split.x).float().view(-1, 1, side, side), torch.from_numpy(split.y)


def experiment(
    train: Split, test: Split, query: int | None, settings: Settings
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The whole experiment on arrays: returns the headline numbers, and the points of the figure.

    Raises:
        DataError: the test image asked for is read correctly, or no test image is misread.
        NotPositiveDefiniteError: the network is so far from a minimum that no damping helps.
    """
    problem = small_cnn.Problem(*images(train), ALPHA)
    say(f"training on {problem.n:,} images")
    started = time.perf_counter()
    model = small_cnn.train(
        problem,
        small_cnn.network(settings.seed, settings.width),
        epochs=settings.epochs,
        rate=settings.rate,
        batch=settings.batch,
        seed=settings.seed,
    )
    training_seconds = time.perf_counter() - started
    x, y = images(test)
    predictions = np.asarray(small_cnn.logits(model, x).argmax(dim=1))
    query = choose_query(predictions, test.y, query, PAPER_QUERY)
    asked = x[query : query + 1], y[query : query + 1]

    predicted: dict[str, np.ndarray] = {}
    notes: dict[str, dict[str, Any]] = {}
    for name in CURVATURES:
        say(f"influence of all training images, {CURVATURES[name]}")
        values, notes[name] = network_scores(
            model, problem, asked, curvature=name, damping=DAMPING, rtol=settings.rtol
        )
        predicted[name] = values / problem.n

    removed = np.argsort(-np.abs(predicted["hessian"]), kind="stable")[: settings.removals]
    say(f"training on from there without each of {len(removed)} images")
    started = time.perf_counter()
    losses = retrain(problem, model, removed, settings.retraining, asked)
    retraining_seconds = time.perf_counter() - started
    changes = losses[:, 1:] - losses[:, :1]
    actual = settled(changes)
    before = float(torch.nn.functional.cross_entropy(small_cnn.logits(model, asked[0]), asked[1]))
    result: dict[str, Any] = {
        name: agreement(values[removed], actual) | notes[name] for name, values in predicted.items()
    }
    result |= {
        "n": problem.n,
        "p": sum(p.numel() for p in model.parameters()),
        "alpha": ALPHA,
        "query": {
            "row": query,
            "label": int(test.y[query]),
            "read_as": int(predictions[query]),
            "loss": before,
        },
        "train_accuracy": _accuracy(model, problem.x, problem.y),
        "test_accuracy": float((predictions == test.y).mean()),
        "training": {"epochs": settings.epochs, "seconds": round(training_seconds, 1)},
        "retraining": {
            "removals": len(removed),
            "steps": settings.retraining.count,
            "time": float(settings.retraining.times[-1]),
            "change_of_loss_with_all_images": float(settled(losses)[0]) - before,
            "smallest_loss_change": float(np.abs(actual).min()),
            "largest_loss_change": float(np.abs(actual).max()),
            "at_times": along(predicted, removed, changes, settings.retraining.times),
            "seconds": round(retraining_seconds, 1),
        },
    }
    if settings.checked:
        result["another_order"] = another_order(problem, model, removed, actual, settings, asked)
    points = {name: values[removed] for name, values in predicted.items()}
    points["actual"] = actual
    return result, points


def settled(values: np.ndarray) -> np.ndarray:
    """The mean over the last third of the steps (rows): single steps jitter with their batches."""
    return values[-max(len(values) // 3, 1) :].mean(axis=0)


def along(
    predicted: dict[str, np.ndarray], removed: np.ndarray, changes: np.ndarray, times: np.ndarray
) -> dict[str, list[float]]:
    """Agreement in each tenth of the further training: Pearson by curvature, slope of the Hessian's."""
    parts = [part for part in np.array_split(np.arange(len(times)), 10) if len(part)]
    means = [changes[part].mean(axis=0) for part in parts]
    result = {"time": [float(times[part].mean()) for part in parts]}
    for name, values in predicted.items():
        result[f"pearson_{name}"] = [agreement(values[removed], mean)["pearson"] for mean in means]
    result["slope_hessian"] = [agreement(predicted["hessian"][removed], mean)["slope"] for mean in means]
    return result


def retrain(
    problem: small_cnn.Problem,
    model: torch.nn.Module,
    removed: np.ndarray,
    steps: small_cnn.Steps,
    asked: tuple[torch.Tensor, torch.Tensor],
) -> np.ndarray:
    """Losses (steps, 1 + removals): with all images, then without each."""
    return small_cnn.retrain_without(
        problem, model, np.concatenate([[small_cnn.NONE], removed]), steps, asked, progress=_tell
    )


def another_order(
    problem: small_cnn.Problem,
    model: torch.nn.Module,
    removed: np.ndarray,
    actual: np.ndarray,
    settings: Settings,
    asked: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, Any]:
    """Some removals again with the batches in another order: how far retraining agrees with itself."""
    chosen = np.unique(np.linspace(0, len(removed) - 1, settings.checked).astype(int))
    say(f"{len(chosen)} of them again, batches in another order")
    steps = replace(settings.retraining, seed=settings.second_order)
    losses = retrain(problem, model, removed[chosen], steps, asked)
    return {"removals": len(chosen)} | agreement(settled(losses[:, 1:] - losses[:, :1]), actual[chosen])


def _accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((small_cnn.logits(model, x).argmax(dim=1) == y).double().mean())


def _tell(done: int, total: int) -> None:
    say(f"  trained {done} of {total}")


def draw(result: dict[str, Any], points: dict[str, np.ndarray]) -> plotting.Figure:
    """Two scatters, predicted against actual, and the agreement as training goes on."""
    fig, axes = plotting.figure(1, 3, 12.6, 4.7)
    for axis, (name, title) in zip(axes[0], CURVATURES.items()):
        note = "Pearson {pearson:.3f}\nSpearman {spearman:.3f}\nslope {slope:.2f}".format(**result[name])
        plotting.predicted_against_actual(
            axis, points["actual"], points[name], f"{title} + {result[name]['damping']:.3g}", note
        )
    axes[0, 0].set_ylabel("predicted change of loss")
    curve = result["retraining"]["at_times"]
    axis = axes[0, 2]
    for (name, title), color in zip(CURVATURES.items(), (plotting.BLUE, plotting.GREEN)):
        axis.plot(curve["time"], curve[f"pearson_{name}"], "o-", color=color, markersize=4, label=title)
    axis.axhline(0.86, color=plotting.ORANGE, linewidth=1.2, label="published: 0.86")
    axis.set(
        xlabel="time of further training  T", ylabel="Pearson", title="As training goes on", ylim=(0, 1.02)
    )
    axis.legend(loc="lower right")
    query = result["query"]
    fig.suptitle(
        f"Convolutional network, {result['n']:,} images of MNIST (p = {result['p']:,}), trained on without "
        f"each of {len(points['actual'])} images\n"
        f"loss of test image {query['row']}: a {query['label']} read as a {query['read_as']}",
        fontsize=11,
    )
    return fig


def command() -> argparse.ArgumentParser:
    """The options of this experiment."""
    result = parser(__doc__ or "")
    result.add_argument(
        "--query", type=int, help="row of the misread test image (default: the paper's, 6558)"
    )
    result.add_argument(
        "--removals", type=at_least(3), help="how many training images to remove (default 100; quick 10)"
    )
    return result


def experiment_from(options: argparse.Namespace) -> dict[str, Any]:
    """Load, run, draw and write; returns the headline numbers."""
    train, test = load_mnist(require_data(options.data))
    settings = Settings()
    train = train.take(slice(0, len(train) // 10))
    if options.quick:
        train, test = train.take(slice(0, 1_000)), test.take(slice(0, 2_000))
        settings = replace(settings, removals=10, checked=0)
    if options.removals is not None:
        settings = replace(settings, removals=options.removals)
    result, points = experiment(train, test, options.query, settings)
    plotting.save(draw(result, points), options.out, "figure2_cnn")
    write(result, "figure2_cnn", options)
    return result


def comparison(result: dict[str, Any]) -> list[Row]:
    """Published numbers beside ours."""
    return [
        Row(
            "2 right",
            f"network, predicted against actual, {title} + {result[name]['damping']:.3g}: Pearson (Spearman)",
            PAPER if name == "hessian" else "",
            "{pearson:.3f} ({spearman:.3f}), slope {slope:.2f}".format(**result[name]),
        )
        for name, title in CURVATURES.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = command().parse_args(argv)
    show(experiment_from(options), options)


if __name__ == "__main__":
    run(main)
