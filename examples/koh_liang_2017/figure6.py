"""Figure 6: finding wrong labels by self-influence.

A spam filter (Enron1, bag of words, L2 logistic regression) is trained on labels of which 10 % have been
flipped. The training e-mails are reviewed in the order of their self-influence, of their loss, or at random:
which share of the flipped labels has been met after 5 to 30 % of them, and how good is the filter trained on
the labels repaired so far?

Where the filter is weakly regularised and can fit wrong labels, self-influence finds more of them than the
loss, as in the paper. With strong regularisation the loss alone finds more: the lower row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotting
from counts import at_least
from enron import bag_of_words, load_enron
from experiment import Row, parser, require_data, run, show, write
from spam_filter import ORDERS, Data, Settings, experiment

PAPER = {
    "self_influence": (0.41, 0.62, 0.72, 0.79, 0.83, 0.86),
    "loss": (0.34, 0.51, 0.62, 0.70, 0.75, 0.79),
}
COLORS = {"self_influence": plotting.BLUE, "loss": plotting.ORANGE, "random": plotting.GREY}
NAMES = {"self_influence": "self-influence", "loss": "loss", "random": "random"}


def draw(result: dict[str, Any]) -> plotting.Figure:
    """Flips found and test accuracy at the L2 of the figure; below, flips found at the others."""
    others = list(result["other_regularisation"].values())
    fig, axes = plotting.figure(2, 2, 11.0, 8.6)
    _draw_found(axes[0, 0], result, result["checked"], paper=True)
    _draw_accuracy(axes[0, 1], result)
    for axis, other in zip(axes[1], others):
        _draw_found(axis, other, result["checked"], paper=False)
    for axis in axes[1, len(others) :]:
        axis.axis("off")
    fig.suptitle(
        f"Enron1, {result['flipped']} of {result['n']:,} training labels flipped, "
        f"{result['converged']} repeats (bars: two standard errors)",
        fontsize=11,
    )
    return fig


def _draw_found(axis: plotting.Axes, numbers: dict[str, Any], checked: list[float], *, paper: bool) -> None:
    share = 100 * np.array(checked)
    for name in ORDERS:
        _curve(axis, share, numbers["fraction_found"][name], name)
        if paper and name in PAPER:
            axis.plot(
                share, PAPER[name], "x--", color=COLORS[name], linewidth=1, label=f"{NAMES[name]}, published"
            )
    axis.set(
        xlabel="training e-mails checked (%)",
        ylabel="share of flipped labels found",
        ylim=(0, 1.28),
        yticks=np.linspace(0, 1, 6),
        title=f"Flips found, L2 {numbers['alpha']:g} ({numbers['converged']} repeats)",
    )
    axis.legend(loc="upper left", fontsize=8)


def _draw_accuracy(axis: plotting.Axes, result: dict[str, Any]) -> None:
    share = 100 * np.array([0.0, *result["checked"]])
    accuracies = result["test_accuracy"]
    before = accuracies["flipped_labels"]
    for name in ORDERS:
        series = {key: before[key] + accuracies[name][key] for key in before}
        _curve(axis, share, series, name)
    axis.axhline(accuracies["true_labels"], color=plotting.GREEN, linewidth=1.2, label="no label flipped")
    axis.set(
        xlabel="training e-mails checked and repaired (%)",
        ylabel="test accuracy",
        title=f"Repaired and retrained, L2 {result['alpha']:g}",
    )
    axis.legend(loc="lower right", fontsize=8)


def _curve(axis: plotting.Axes, share: np.ndarray, series: dict[str, list[float]], name: str) -> None:
    axis.errorbar(
        share,
        series["mean"],
        yerr=2 * np.array(series["standard_error"]),
        fmt="o-",
        markersize=4,
        capsize=2,
        color=COLORS[name],
        label=NAMES[name],
    )


def command() -> argparse.ArgumentParser:
    """The options of this experiment."""
    result = parser(__doc__ or "")
    result.add_argument("--repeats", type=at_least(2), help="draws of flipped labels (default 40; quick 2)")
    return result


def experiment_from(options: argparse.Namespace) -> dict[str, Any]:
    """Load, run, draw and write; returns the headline numbers."""
    train, test = load_enron(require_data(options.data)).divided(0.8, seed=0)
    settings = (
        Settings(repeats=2, others=(1e-2,), other_repeats=2, words=800) if options.quick else Settings()
    )
    if options.repeats is not None:
        fewer = min(options.repeats, settings.other_repeats)
        settings = replace(settings, repeats=options.repeats, other_repeats=fewer)
    bag = bag_of_words(train, test, most=settings.words, min_mails=settings.min_mails)
    result = experiment(Data(bag, train.labels, test.labels), settings)
    plotting.save(draw(result), options.out, "figure6")
    write(result, "figure6", options)
    return result


def comparison(result: dict[str, Any]) -> list[Row]:
    """Published numbers beside ours."""
    percent = "/".join(f"{100 * share:.0f}" for share in result["checked"])

    def row(numbers: dict[str, Any], name: str, *, paper: bool) -> Row:
        curve = numbers["fraction_found"][name]
        worst = max(curve["standard_error"])
        return Row(
            "6",
            f"flips found at {percent} % checked by {NAMES[name]}, L2 {numbers['alpha']:g}",
            _shares(PAPER[name]) if paper else "",
            f"{_shares(curve['mean'])} (standard errors up to {worst:.3f})",
        )

    rows = [row(result, name, paper=True) for name in PAPER]
    accuracies = result["test_accuracy"]
    by_influence, by_loss = (accuracies[name]["mean"][-1] for name in PAPER)
    rows.append(
        Row(
            "6",
            "test accuracy with flipped labels → after checking 30 % by self-influence (by loss); no flips",
            "",
            f"{accuracies['flipped_labels']['mean'][0]:.3f} → {by_influence:.3f} ({by_loss:.3f}); "
            f"{accuracies['true_labels']:.3f}",
        )
    )
    return rows + [
        row(other, name, paper=False) for other in result["other_regularisation"].values() for name in PAPER
    ]


def _shares(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}".lstrip("0") for value in values)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = command().parse_args(argv)
    show(experiment_from(options), options)


if __name__ == "__main__":
    run(main)
