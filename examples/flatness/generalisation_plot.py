"""Scatter panels: each flatness measure against the gap between test and training loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from flatness_measures import MEASURES
from plotting import BLUE, GREEN, ORANGE, figure

NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "digits",
    "mlp": "MLP",
    "cnn": "conv net",
}
COLOURS = (BLUE, ORANGE, GREEN)
MARKERS = ("o", "^", "s")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One row of panels per data set and kind of network; colour: learning rate, shape: batch size."""
    kinds = list(dict.fromkeys((row["data"], row["kind"]) for row in rows))
    fig, axes = figure(len(kinds), len(MEASURES), 11.5, 2.5 * len(kinds) + 0.5)
    for line, (data, kind) in zip(axes, kinds):
        some = [row for row in rows if (row["data"], row["kind"]) == (data, kind)]
        rates = sorted({row["lr"] for row in some})
        sizes = sorted({row["batch_size"] for row in some})
        for axis, (measure, words) in zip(line, MEASURES.items()):
            for row in some:
                axis.plot(
                    row[measure],
                    row["test_loss"] - row["train_loss"],
                    linestyle="",
                    marker=MARKERS[sizes.index(row["batch_size"])],
                    color=COLOURS[rates.index(row["lr"])],
                    markersize=4.5,
                    alpha=0.75,
                )
            axis.set_xlabel(words)
        line[0].set_ylabel("test − training loss")
        line[0].set_title(f"{NAMES[data]}, {NAMES[kind]}")
        handles = [
            plt.Line2D([], [], linestyle="", marker="o", color=colour, label=f"rate {rate:g}")
            for colour, rate in zip(COLOURS, rates)
        ] + [
            plt.Line2D([], [], linestyle="", marker=marker, color="#6b6b6b", label=f"batch {size}")
            for marker, size in zip(MARKERS, sizes)
        ]
        line[-1].legend(handles=handles, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=80)
    plt.close(fig)
