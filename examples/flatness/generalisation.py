"""How flatness goes with generalisation over learning rate and batch size, at equal training loss.

    python examples/flatness/generalisation.py --data DIR --out DIR [--seeds 4] [--kinds mlp]

It trains a grid of small networks on a thousand images of MNIST and of Fashion-MNIST, all to the same
training loss; measures each one's flatness; and prints a table of rank correlations with the gap between test
and training loss. Finished networks are not trained or measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flatness_measures import DAMPING, MEASURES, flatness
from generalisation_plot import draw
from rank_correlations import rank_correlation
from row_files import RowFile
from small_images import default_data, load
from trained_nets import MAX_STEPS, TARGET, Net, grid, load_net, train_net

from wherefrom.progress import progress_bar

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, measure, correlate, draw; returns what is also written to `generalisation.json`."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    sets = {name: load(name, args.data, args.train, args.test) for name in args.sets}
    nets = list(grid(args.sets, args.kinds, args.seeds))
    settings = {"train": args.train, "test": args.test, "target": TARGET, "max_steps": MAX_STEPS}
    trained = RowFile(args.out / "nets.jsonl", settings)
    measured = RowFile(args.out / "measures.jsonl", {**settings, "damping": DAMPING})
    with progress_bar("networks", len(nets)) as bar:
        rows = []
        for net in nets:
            row = train_net(net, sets[net.data], args.out, trained)
            if row["reached"]:
                rows.append({**row, **_measure(net, sets, args.out, measured)})
            bar.advance()
    left_out = [net.key for net in nets if not trained.rows[net.key]["reached"]]
    table = correlations(rows)
    result = {"networks": len(rows), "left_out": left_out, "table": table, "ranges": ranges(rows)}
    (args.out / "generalisation.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(rows, args.out / "flatness-generalisation.png")
    print(f"{len(rows)} networks; {len(left_out)} more never reached the training loss and are left out\n")
    print(markdown(table))
    return result


def _measure(net: Net, sets: dict[str, Any], out: Path, measured: RowFile) -> Row:
    if net.key not in measured.rows:
        images = sets[net.data]
        measured.add({"key": net.key, **flatness(load_net(net, images.side, out), images)})
    return measured.rows[net.key]


def correlations(rows: list[Row]) -> list[Row]:
    """For each data set and kind of network, each measure with the gap in loss and in accuracy."""
    table = []
    for data, kind in dict.fromkeys((row["data"], row["kind"]) for row in rows):
        some = [row for row in rows if (row["data"], row["kind"]) == (data, kind)]
        seeds = np.array([row["seed"] for row in some])
        gaps = {
            "loss": np.array([row["test_loss"] - row["train_loss"] for row in some]),
            "accuracy": np.array([row["train_accuracy"] - row["test_accuracy"] for row in some]),
        }
        for measure in MEASURES:
            values = np.array([row[measure] for row in some])
            line: Row = {"data": data, "kind": kind, "measure": measure, "networks": len(some)}
            for name, gap in gaps.items():
                line[name] = vars(rank_correlation(values, gap))
                line[name + "_within_seed"] = vars(rank_correlation(values, gap, seeds))
            table.append(line)
    return table


def ranges(rows: list[Row]) -> dict[str, dict[str, list[float]]]:
    """Smallest and largest of each quantity, by data set and kind of network."""
    found: dict[str, dict[str, list[float]]] = {}
    names = ("train_loss", "test_loss", "test_accuracy", "steps", *MEASURES)
    for row in rows:
        of_kind = found.setdefault(f"{row['data']} {row['kind']}", {})
        for name in names:
            low, high = of_kind.get(name, [row[name], row[name]])
            of_kind[name] = [min(low, row[name]), max(high, row[name])]
    return found


def markdown(table: list[Row]) -> str:
    """The table as Markdown: ρ with its 95 % bootstrap interval."""
    lines = [
        "| data, network | measure | gap in loss | within a seed | gap in accuracy | within a seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in table:
        cells = [
            _words(line[name]) for name in ("loss", "loss_within_seed", "accuracy", "accuracy_within_seed")
        ]
        where = f"{line['data']}, {line['kind']} ({line['networks']})"
        lines.append(f"| {where} | {MEASURES[line['measure']]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _words(found: dict[str, float]) -> str:
    if math.isnan(found["rho"]):  # all equal: no ranks
        return "not defined"
    return "{rho:+.2f} [{low:+.2f}, {high:+.2f}]".format(**found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=default_data(), metavar="DIR", help="folder with the data"
    )
    parser.add_argument("--out", type=Path, default=Path("out/flatness"), metavar="DIR", help="for results")
    parser.add_argument("--seeds", type=int, default=4, help="networks per learning rate and batch size")
    parser.add_argument("--kinds", nargs="+", choices=("mlp", "cnn"), default=["mlp"])
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=("mnist", "fashion_mnist", "digits"),
        default=["mnist", "fashion_mnist"],
        help="image sets; digits come with scikit-learn",
    )
    parser.add_argument("--train", type=int, default=1000, help="training images")
    parser.add_argument("--test", type=int, default=5000, help="test images")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
