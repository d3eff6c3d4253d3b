"""What damping, scale, batch size, depth and repeats do to LiSSA, and damping and tolerance to CG.

    python examples/solver_study.py                    # scikit-learn's digits
    python examples/solver_study.py --data DIR         # MNIST, from a folder with its four files

Scores of a logistic regression and of a small convolutional network against the exact ones (`solver="exact"`,
float64): bias, spread over seeds and cost. Writes `results.json`, `tables.md` and plots.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "solver_study"))

from study_plots import draw
from study_problems import WEIGHT_DECAY, digit_images, logistic, small_cnn
from study_runs import Plan, study
from study_tables import tables


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run it all; returns what `results.json` holds, one entry for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("WHEREFROM_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=None if default is None else Path(default),
        metavar="DIR",
        help="folder with MNIST; default: $WHEREFROM_DATA, else scikit-learn's digits",
    )
    parser.add_argument("--out", type=Path, default=Path("out/solver_study"), metavar="DIR")
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="training images")
    parser.add_argument("--seeds", type=int, default=16, metavar="S", help="runs of each setting, 4 or more")
    parser.add_argument("--quick", action="store_true", help="few settings, to see it run")
    options = parser.parse_args(arguments)
    if options.seeds < 4 or options.train < 20:
        parser.error("--seeds must be at least 4 and --train at least 20")
    torch.set_num_threads(1)  # products this small gain nothing from more

    plan = Plan(seeds=options.seeds)
    if options.quick:
        plan = Plan(options.seeds, 10.0, (5.0, 10.0), (8, 32), (0.05, 1.0), (0.02, 1.0, 2.0))
    images, labels = digit_images(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    studies = []
    for build in (logistic, small_cnn):
        start = time.process_time()
        problem = build(images, labels, options.train)
        found = study(problem, plan)
        found |= {"weight_decay": WEIGHT_DECAY, "cpu_seconds": time.process_time() - start}
        studies.append(found)
        print(f"{problem.name}: {found['cpu_seconds']:.0f} s of CPU time")
    (options.out / "results.json").write_text(json.dumps(studies, indent=1) + "\n")
    (options.out / "tables.md").write_text(tables(studies))
    print(tables(studies))
    for name in draw(studies, options.out):
        print(f"Plot: {options.out / name}.png")
    return studies


if __name__ == "__main__":
    main()
