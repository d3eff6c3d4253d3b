"""Does training with lower curvature make influence agree better with retraining?

    python examples/flatness/trust.py --out DIR [--seeds 3] [--kinds mlp cnn]

Small networks are trained on two hundred of scikit-learn's digits: plainly, with a penalty on the gradient
in the parameters or in the input, with a larger batch, and with a learning rate that goes to zero. For each,
what influence predicts of removing single images and groups is compared with retraining. Finished pieces are
kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import study
from replicas import Recipe
from row_files import RowFile
from small_images import default_data, load
from trust_plot import draw

from wherefrom.progress import progress_bar

RECIPES = (
    Recipe("plain"),
    Recipe("parameter penalty 0.1", parameter_penalty=0.1),
    Recipe("parameter penalty 0.3", parameter_penalty=0.3),
    Recipe("input penalty 0.03", input_penalty=0.03),
    Recipe("input penalty 0.1", input_penalty=0.1),
    Recipe("batch 100", batch_size=100),
    Recipe("decaying rate", decay=True),
)
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run what is missing, print the table, draw; returns the table, also written to `trust.json`."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    images = load(args.set, args.data, args.train, 500)
    settings = {name: getattr(args, name) for name in ("set", "train", "singles", "groups", "queries")}
    recipes = {recipe.name: asdict(recipe) for recipe in RECIPES}
    kept = RowFile(args.out / "trust.jsonl", {**settings, "recipes": recipes})
    chosen = [recipe for recipe in RECIPES if args.recipes is None or recipe.name in args.recipes]
    work = [(kind, seed, recipe) for kind in args.kinds for seed in range(args.seeds) for recipe in chosen]
    with progress_bar("networks", len(work)) as bar:
        for kind, seed, recipe in work:
            key = f"{kind}-{recipe.name}-s{seed}"
            if key not in kept.rows:
                found = study(
                    recipe, kind, images, seed, singles=args.singles, groups=args.groups, queries=args.queries
                )
                kept.add({"key": key, "kind": kind, "recipe_name": recipe.name, "seed": seed, **found})
            bar.advance()
    table = summarise(list(kept.rows.values()))
    (args.out / "trust.json").write_text(json.dumps(table, indent=1) + "\n")
    draw(table, args.out / "flatness-trust.png")
    print(markdown(table))
    return table


def summarise(rows: list[Row]) -> list[Row]:
    """Per network and recipe: mean and standard error over the seeds of each number."""
    table = []
    for kind, name in dict.fromkeys((row["kind"], row["recipe_name"]) for row in rows):
        some = [row for row in rows if (row["kind"], row["recipe_name"]) == (kind, name)]
        line: Row = {"kind": kind, "recipe": name, "seeds": len(some)}
        for key in ("test_accuracy", "largest", "trace"):
            line[key] = _mean([row[key] for row in some])
        line["refused"] = sum("refused" in row["minimum"] for row in some)
        line["minimum_largest"] = _mean([row["minimum"]["largest"] for row in some])
        for truth in ("recipe", "minimum"):
            done = [row[truth] for row in some if "refused" not in row[truth]]
            for removed in ("single", "group"):
                for number in ("pearson", "spearman", "slope"):
                    line[f"{truth}_{removed}_{number}"] = _mean([one[removed][number] for one in done])
        table.append(line)
    return table


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean and standard error; NaN where there is nothing to average, or no spread."""
    if not values:
        return float("nan"), float("nan")
    spread = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread


def markdown(table: list[Row]) -> str:
    """The table as Markdown: means ± standard errors over seeds."""
    columns = {
        "λ_max": "largest",
        "trace": "trace",
        "recipe: one, Pearson": "recipe_single_pearson",
        "Spearman": "recipe_single_spearman",
        "recipe: group, Pearson": "recipe_group_pearson",
        "Spearman ": "recipe_group_spearman",
        "minimum: λ_max": "minimum_largest",
        "minimum: one, Pearson": "minimum_single_pearson",
        "minimum: group, Pearson": "minimum_group_pearson",
    }
    lines = [
        "| network | training | test accuracy | " + " | ".join(columns) + " |",
        "| --- " * (3 + len(columns)) + "|",
    ]
    for line in table:
        accuracy = f"{100 * line['test_accuracy'][0]:.1f} %"
        cells = [f"{line[key][0]:.3g} ± {line[key][1]:.1g}" for key in columns.values()]
        lines.append(f"| {line['kind']} | {line['recipe']} | {accuracy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=default_data(), metavar="DIR", help="folder with the data"
    )
    parser.add_argument("--set", choices=("digits", "mnist", "fashion_mnist"), default="digits")
    parser.add_argument("--out", type=Path, default=Path("out/flatness"), metavar="DIR", help="for results")
    parser.add_argument("--seeds", type=int, default=3, help="networks per recipe")
    parser.add_argument("--kinds", nargs="+", choices=("mlp", "cnn"), default=["mlp", "cnn"])
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=[recipe.name for recipe in RECIPES],
        help="ways of training; default: all",
    )
    parser.add_argument("--train", type=int, default=200, help="training images")
    parser.add_argument("--singles", type=int, default=6, help="images removed alone")
    parser.add_argument("--groups", type=int, default=6, help="random groups of a twentieth removed")
    parser.add_argument("--queries", type=int, default=40, help="test images whose loss is predicted")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
