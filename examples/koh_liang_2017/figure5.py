"""Figure 5: an attack on training images that nobody can see, and how many test predictions it flips.

A convolutional network is trained on eight classes of CIFAR-10; logistic regression on its frozen features
tells the two others apart. For each test image that it reads correctly, 1, 2 or 10 training images are
edited by at most half a grey level, so that they round to the very same 8-bit picture; the head is refitted
to its optimum after every step, and a flip is a prediction of the refitted head. Features are principal
components, whitened, and the L2 penalty is weak: how much the attack owes to either is measured too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotting
import torch
from cifar10 import load_cifar10
from cifar_pair import Pair, network_for, pair_of
from counts import at_least
from experiment import Row, parser, require_data, run, say, show, write
from image_attack import Head, Method, Task, flipped_share, head_on, one_by_one, refitted, task_of, together

from wherefrom.studies.attack import PoisonedQuery

PAPER = {"1": 0.57, "2": 0.77, "10": 590 / 591}
PAPER_TOGETHER = 16  # of 30


@dataclass(frozen=True)
class Settings:
    """The head, and the attack.

    Attributes:
        components: principal components of the features that the head reads.
        alpha: its L2 penalty, for features of mean squared norm 1.
        edits: numbers of training images edited.
        steps, step_size: of the attack; the size in grey levels.
        together: test images attacked by one edit.
        queries: test images attacked one by one; `None`: all.
        compared: test images for the comparison of heads.
        heads: (components, alpha) of these heads; `None`: all features, not whitened.
    """

    components: int | None = 600
    alpha: float = 1e-8
    edits: tuple[int, ...] = (1, 2, 10)
    steps: int = 24
    step_size: float = 0.06
    together: int = 30
    queries: int | None = 120
    compared: int = 24
    heads: tuple[tuple[int | None, float], ...] = ((None, 1e-3), (None, 1e-8), (600, 1e-3), (300, 1e-8))


QUICK = Settings(
    components=60, alpha=1e-6, edits=(1, 2), steps=4, step_size=0.2, together=5, queries=8, heads=()
)


def experiment(task: Task, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every attack on arrays: the headline numbers, and what the figure shows."""
    pair, method = task.pair, Method(settings.steps, settings.step_size)
    head = head_on(task, settings.components, settings.alpha)
    correct = head.correct(pair)
    rows = np.random.default_rng(0).permutation(len(pair.test))  # any first part is a random one
    found = one_by_one(task, head, rows[: settings.queries], method, settings.edits)
    right = rows[correct[rows]]
    margins = np.abs(head.test_features @ head.weights)
    groups = {
        "random": right[: settings.together],
        "nearest_to_the_boundary": right[np.argsort(margins[right], kind="stable")[: settings.together]],
    }
    result: dict[str, Any] = {
        "n": len(pair.train),
        "classes": list(pair.names),
        "test_images": len(pair.test),
        "network": "trained on the other eight classes of CIFAR-10",
        "components": settings.components,
        "alpha": settings.alpha,
        "train_accuracy": float((pair.train.y * (head.train_features @ head.weights) > 0).mean()),
        "test_accuracy": float(correct.mean()),
        "attacked": len(found),
        "flips": {str(k): flipped_share(found, k) for k in settings.edits},
        "not_converged": sum(not entry.converged for entry in found.values()),
        "largest_edit_in_grey_levels": max(entry.size.grey_levels or 0.0 for entry in found.values()),
        "same_8_bit_picture": all(bool(entry.size.same_picture) for entry in found.values()),
        "refitted_from_zero": refitted(task, head, found, settings.alpha, most=12),
        "together": {},
        "heads": [],
    }
    for name, chosen in groups.items():
        say(f"{len(chosen)} test images together, one edited: {name}")
        attack = together(task, head, chosen, method)
        result["together"][name] = {"of": len(attack.queries), "flips": attack.flips}
    compared = rows[: settings.compared]
    among = {int(row): found[int(row)] for row in compared if int(row) in found}
    if among:
        result["heads"].append(_row(head, pair, settings.components, settings.alpha, among))
    for components, alpha in settings.heads:
        say(f"for comparison: {components or 'all'} components, L2 {alpha:g}")
        other = head_on(task, components, alpha)
        attacks = one_by_one(task, other, compared, method, (1,))
        result["heads"].append(_row(other, pair, components, alpha, attacks))
    pictures = [(row, one) for row, one in found.items() if one.edited is not None and one.edits == 1]
    shown = [(pair.test.pixels[row], one.original[0].numpy(), one.edited[0].numpy()) for row, one in pictures]
    return result, {"pictures": shown[:3]}


def _row(
    head: Head, pair: Pair, components: int | None, alpha: float, found: dict[int, PoisonedQuery]
) -> dict[str, Any]:
    return {
        "components": components,
        "alpha": alpha,
        "test_accuracy": float(head.correct(pair).mean()),
        "attacked": len(found),
        "flips": flipped_share(found, 1),
    }


def draw(result: dict[str, Any], points: dict[str, Any]) -> plotting.Figure:
    """Shares flipped beside the paper's; other heads; edited training images, which look the same."""
    fig, axes = plotting.figure(1, 3, 16.0, 4.6, width_ratios=[1.0, 1.15, 1.25])
    bars, heads, pictures = axes[0]
    place = np.arange(len(result["flips"]))
    for shift, values, color, label in (
        (-0.2, [PAPER.get(k, np.nan) for k in result["flips"]], plotting.GREY, "paper (Inception, ImageNet)"),
        (0.2, list(result["flips"].values()), plotting.BLUE, "here"),
    ):
        drawn = bars.bar(place + shift, values, 0.36, color=color, label=label)
        bars.bar_label(drawn, fmt="{:.0%}", fontsize=9)
    bars.set_xticks(place, list(result["flips"]))
    bars.set(
        ylim=(0, 1.22), xlabel="training images edited, of 1,800" if result["n"] == 1800 else "images edited"
    )
    bars.set(ylabel="share of test predictions flipped", title="After refitting the head")
    bars.legend(loc="upper left", fontsize=9)

    table = sorted(result["heads"], key=lambda one: one["flips"])
    names = [f"{one['components'] or 'all'} · L2 {one['alpha']:.0e}" for one in table]
    drawn = heads.barh(names, [one["flips"] for one in table], color=plotting.BLUE)
    heads.bar_label(
        drawn, [f"{one['flips']:.0%}  (accuracy {one['test_accuracy']:.0%})" for one in table], padding=3
    )
    heads.set(xlim=(0, 1.35), xlabel="share flipped by one edit", title="Components of the features, L2")
    heads.tick_params(axis="y", labelsize=9)

    pictures.axis("off")
    titles = ("test image", "training image", "edited", "difference × 100")
    for row, (query, original, edited) in enumerate(points["pictures"]):
        shown = (query / 255.0, original, edited, np.clip(0.5 + 100 * (edited - original), 0, 1))
        for column, image in enumerate(shown):
            inset = pictures.inset_axes((0.25 * column, 0.68 - 0.335 * row, 0.24, 0.30))
            inset.imshow(image.transpose(1, 2, 0), interpolation="nearest")
            inset.set(xticks=[], yticks=[])
            inset.grid(False)
            if row == 0:
                inset.set_title(titles[column], fontsize=9, fontweight="normal", loc="center")
    fig.suptitle(
        f"{result['classes'][0]} or {result['classes'][1]}: edits of at most half a grey level, "
        f"{result['attacked']} test images attacked (accuracy {result['test_accuracy']:.0%})",
        fontsize=12,
    )
    return fig


def command() -> argparse.ArgumentParser:
    """The options of this experiment."""
    result = parser(__doc__ or "")
    result.add_argument(
        "--queries",
        type=at_least(1),
        help="attack so many test images, taken at random (default 120, quick 8; 474 are all)",
    )
    return result


def experiment_from(options: argparse.Namespace) -> dict[str, Any]:
    """Load, train, attack, draw and write; returns the headline numbers."""
    torch.set_num_threads(1)
    pair = pair_of(*load_cifar10(require_data(options.data)), per_class=200 if options.quick else 900)
    network = network_for(pair, options.out, quick=options.quick)
    settings = QUICK if options.quick else Settings()
    if options.queries is not None:
        settings = replace(settings, queries=options.queries)
    result, points = experiment(task_of(network.features, pair), settings)
    result["training_seconds"] = network.seconds
    plotting.save(draw(result, points), options.out, "figure5")
    write(result, "figure5", options)
    return result


def comparison(result: dict[str, Any]) -> list[Row]:
    """Published numbers beside ours."""
    rows = [
        Row("5", f"test predictions flipped, {k} training images edited", f"{PAPER[k]:.0%}", f"{share:.0%}")
        for k, share in result["flips"].items()
        if k in PAPER
    ]
    for name, found in result["together"].items():
        paper = f"{PAPER_TOGETHER} of 30"
        what = f"flipped by one edit against {found['of']} test images at once ({name.replace('_', ' ')})"
        rows.append(Row("5", what, paper, f"{found['flips']:g} of {found['of']}"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = command().parse_args(argv)
    show(experiment_from(options), options)


if __name__ == "__main__":
    run(main)
