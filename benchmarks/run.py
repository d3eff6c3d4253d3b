"""Benchmark of wherefrom against its peers: accuracy first, then CPU time and peak memory.

    python benchmarks/run.py --out out/bench [--tasks digits,mlp] [--peers pydvl,dattri,curvlinops] [--quick]

Installs each peer from PyPI into its own environment (benchmarks/.envs), builds the tasks and their float64
references, finds each competitor's loosest settings that meet the target error, then runs all competitors in
turn (A B C A B C …). Writes results.json and table.md to --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

import environments
import floors
import measure
import numpy as np
import reference
import table
import tasks
import torch
from calibrate import Calibration
from competitors import COMPETITORS, TARGETS, Competitor, Settings
from progress import Progress

SLOW = 30.0  # seconds of CPU: a competitor slower than this in its first run is timed once


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    tell, out = Progress("float64 CG"), given.out
    out.mkdir(parents=True, exist_ok=True)
    data = tasks.find_data(given.data)
    fingerprint = _fingerprint(given.quick, data is not None)
    chosen = [
        c
        for c in COMPETITORS
        if c.task in given.tasks.split(",") and c.library in ("wherefrom", *given.peers.split(","))
        if not given.methods or c.method in given.methods.split(",")
    ]
    if not given.skip_install:
        for name in sorted({c.library for c in chosen}):
            environments.prepare(name, tell)
    paths = _inputs(chosen, out, fingerprint, data, given.quick, tell)
    rows = _compete(chosen, paths, out, fingerprint, given.repeats, given.limit, tell)
    results = _results(rows, given.quick, "MNIST" if data else "synthetic (enlarged scikit-learn digits)")
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table.render(results))
    tell("done")
    print("\n" + table.render(results))
    for group, ratios in results["headline"].items():
        print(
            f"{group}: {ratios['speed_up']:.2f}× as fast as the best peer, {ratios['memory']:.2f}× its memory"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench"), help="results, tasks and references go here"
    )
    parser.add_argument("--tasks", default="digits,mlp", help="comma-separated: digits, mlp")
    parser.add_argument(
        "--peers", default=",".join(environments.REQUIREMENTS), help="comma-separated; wherefrom always runs"
    )
    parser.add_argument("--methods", default="", help="comma-separated; all if not given")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds; medians are reported")
    parser.add_argument(
        "--limit", type=float, default=900.0, help="seconds after which one run is stopped and failed"
    )
    parser.add_argument(
        "--data", help="folder with mnist/*.gz; else WHEREFROM_DATA, else ../shared/data, else synthetic"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small versions of the tasks: checks that all of it runs"
    )
    parser.add_argument("--skip-install", action="store_true", help="use the environments as they are")
    return parser.parse_args()


def _inputs(
    chosen: list[Competitor], out: Path, fingerprint: str, data: Path | None, quick: bool, tell: Progress
) -> dict[str, tuple[Path, Path]]:
    """Task and reference files by ``task.curvature``, made unless a run of the same fingerprint left them."""
    paths = {}
    for name, curvature in sorted({(c.task, c.curvature) for c in chosen}):
        task = out / f"{name}-{fingerprint}.npz"
        if not task.exists():
            tell(f"training {name}")
            tasks.build(name, task, data, quick)
        truth = out / f"{name}-{curvature}-reference-{fingerprint}.npz"
        if not truth.exists():
            tell(f"float64 reference of {name}, {curvature}")
            reference.build(task, truth, curvature, tell)
        paths[f"{name}.{curvature}"] = task, truth
    return paths


def _compete(
    chosen: list[Competitor],
    paths: dict[str, tuple[Path, Path]],
    out: Path,
    fingerprint: str,
    repeats: int,
    limit: float,
    tell: Progress,
) -> list[dict[str, Any]]:
    calibration = Calibration(out / "calibration.json", fingerprint)

    def attempt(competitor: Competitor, settings: Settings) -> measure.Run:
        task, truth = paths[f"{competitor.task}.{competitor.curvature}"]
        return measure.run(competitor, settings, task, truth, out / "runs" / competitor.key, limit)

    entries: dict[str, tuple[Competitor, Settings | None, measure.Run | None]] = {}
    for c in chosen:
        settings, first = (
            (None, None) if c.excluded else calibration.choose(c, lambda s, c=c: attempt(c, s), tell)
        )
        entries[c.key] = (c, settings, first)

    timed: dict[str, list[measure.Run]] = {key: [] for key in entries}
    for round_ in range(repeats):
        for key, (c, settings, _) in entries.items():
            if settings is None or (timed[key] and timed[key][0].cpu > SLOW):
                continue
            tell(f"round {round_ + 1} of {repeats}: {c.task} {c.curvature} {c.label}")
            timed[key].append(attempt(c, settings))
    return [_row(c, settings, first, timed[key], paths) for key, (c, settings, first) in entries.items()]


def _row(
    c: Competitor,
    settings: Settings | None,
    first: measure.Run | None,
    runs: list[measure.Run],
    paths: dict[str, tuple[Path, Path]],
) -> dict[str, Any]:
    """Medians over the timed runs; a single run over the target fails the competitor."""
    worst = max(runs, key=lambda r: r.error) if runs else first
    row: dict[str, Any] = {
        "library": c.library,
        "method": c.method,
        "label": c.label,
        "task": c.task,
        "curvature": c.curvature,
        "family": c.family,
        "settings": settings,
        "excluded": c.excluded,
        "met": bool(runs) and worst is not None and worst.error <= TARGETS[c.family],
        "error": worst.error if worst else None,
        "failure": worst.failure if worst else "",
        "runs": len(runs),
    }
    if row["met"]:
        row |= {
            name: statistics.median(getattr(r, name) for r in runs) for name in ("cpu", "wall", "peak_mib")
        }
        row["error_median"] = statistics.median(r.error_median for r in runs)
        row["stages"] = [r.report["stages"] for r in runs]
        row["version"], row["torch"] = runs[0].report["version"], runs[0].report["torch"]
        row["gemm"] = statistics.median(r.report["gemm_flops_per_second"] for r in runs)
        row["floor_flops"] = _floor(c, settings or {}, paths)
    return row


def _floor(c: Competitor, settings: Settings, paths: dict[str, tuple[Path, Path]]) -> float | None:
    if c.family == "exact" and c.task != "digits":
        return None
    task, truth = (np.load(path) for path in paths[f"{c.task}.{c.curvature}"])
    n, q = len(task["y"]), len(task["yq"])
    products = float(truth["iterations_1e4"].sum())
    if c.family == "lissa":
        products = settings["depth"] * min(settings["batch"], n) / n * q
    return floors.flops(c.family, c.curvature, floors.widths_of(task), n, q, products)


def _results(rows: list[dict[str, Any]], quick: bool, mlp_data: str) -> dict[str, Any]:
    met = [row for row in rows if row["met"]]
    rate = statistics.median(row["gemm"] for row in met) if met else float("nan")
    for row in rows:
        row["floor_seconds"] = row["floor_flops"] / rate if row["met"] and row["floor_flops"] else None
    results = {
        "quick": quick,
        "rows": rows,
        "mlp_data": mlp_data,
        "gemm_flops_per_second": rate,
        "cpu_model": _cpu_model(),
        "versions": {row["library"]: row["version"] for row in met} | {"torch": torch.__version__},
    }
    return results | {"headline": table.headline(results)}


def _fingerprint(quick: bool, mnist: bool) -> str:
    """Changes with whatever decides the tasks and references, so that a cached file is never stale."""
    here = Path(__file__).resolve().parent
    source = b"".join((here / name).read_bytes() for name in ("tasks.py", "reference.py"))
    return hashlib.sha256(source + f"{quick} {mnist}".encode()).hexdigest()[:10]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


if __name__ == "__main__":
    main()
