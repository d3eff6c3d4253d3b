"""Agreement with retraining for each way of training, with error bars over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from plotting import BLUE, ORANGE, figure

TITLES = {
    "recipe": "same recipe, from the start",
    "minimum": "from the minimum to the minimum",
}
NAMES = {"mlp": "MLP", "cnn": "conv net"}


def draw(table: list[dict[str, Any]], path: Path) -> None:
    """One row of panels per kind of network, one panel per way of retraining: Pearson's r."""
    kinds = list(dict.fromkeys(line["kind"] for line in table))
    fig, axes = figure(len(kinds), 2, 10.0, 2.9 * len(kinds) + 0.3, sharey="row")
    for row, kind in zip(axes, kinds):
        lines = [line for line in table if line["kind"] == kind]
        heights = np.arange(len(lines))[::-1]
        for axis, (truth, title) in zip(row, TITLES.items()):
            for shift, colour, removed, words in (
                (0.12, BLUE, "single", "one image removed"),
                (-0.12, ORANGE, "group", "a random twentieth removed"),
            ):
                found = np.array([line[f"{truth}_{removed}_pearson"] for line in lines], dtype=float)
                axis.errorbar(
                    found[:, 0],
                    heights + shift,
                    xerr=found[:, 1],
                    fmt="o",
                    color=colour,
                    capsize=2,
                    markersize=4.5,
                    label=words,
                )
            axis.set_title(f"{NAMES[kind]}: {title}", fontsize=10)
            axis.set_yticks(heights, [line["recipe"] for line in lines])
            axis.set_xlabel("Pearson r of predicted and actual change")
    axes[0][0].legend(fontsize=7, loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=80)
    plt.close(fig)
