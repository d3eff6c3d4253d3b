"""Benchmark of Kronecker-factored influence: wherefrom side by side with its peers, in one run.

    python benchmarks/kronecker/run.py --out out/kronecker [--tasks mlp,resnet,gpt2] [--peers ...] [--quick]

Installs each peer from PyPI into its own environment (benchmarks/.envs), builds the tasks, computes float64
references of every library's own estimand and of the damped full Gauss-Newton matrix, then runs all
entrants in turn (A B C A B C …). Writes results.json and table.md to --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import convergence
import environments
import ggn_reference
import kronecker_reference
import launch
import problems
import report
import results
import torch
from entrants import ENTRANTS, Entrant
from progress import Progress

SLOW = 30.0  # seconds of CPU: an entrant slower than this in its first run is timed once
TASK_FILES = ("problems.py", "models.py")
REFERENCE_FILES = ("capturing.py", "kronecker_reference.py", "ggn_reference.py")
GGN_TASKS = ("mlp-reduced", "resnet-reduced")


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    tell, out = Progress("float64"), given.out
    out.mkdir(parents=True, exist_ok=True)
    data = problems.find_data(given.data)
    kind = f"{given.quick} {data is not None}"
    marks, truths = _fingerprint(TASK_FILES, kind), _fingerprint(TASK_FILES + REFERENCE_FILES, kind)
    tasks = given.tasks.split(",")
    libraries = {"wherefrom", *given.peers.split(",")} if given.peers else {"wherefrom"}
    chosen = [
        (entrant, task)
        for task in tasks
        for entrant in ENTRANTS
        if task in entrant.tasks and entrant.library in libraries
        if not given.methods or entrant.method in given.methods.split(",")
    ]
    if not given.skip_install:
        for name in sorted({entrant.library for entrant, _ in chosen}):
            environments.prepare(name, tell)
    paths = {task: _task(task, out, marks, data, given.quick, tell) for task in tasks}
    kept = out / f"runs-{marks}"
    if not given.resume and not given.report_only:
        shutil.rmtree(kept, ignore_errors=True)
    runs = _rounds(chosen, paths, kept, given, tell)
    chosen = [(entrant, task) for entrant, task in chosen if runs[task, entrant.name][1]]
    runs = {key: value for key, value in runs.items() if value[1]}
    references = _references(chosen, paths, out, truths, not given.report_only, tell)
    summary = results.summarise(runs, references, paths)
    summary["quick"], summary["data"] = given.quick, "real" if data else "synthetic"
    summary["convergence"] = (
        []
        if given.skip_convergence
        else convergence.measure(data, out, marks, given.quick, given.resume or given.report_only, tell)
    )
    (out / "results.json").write_text(json.dumps(summary, indent=1))
    (out / "table.md").write_text(report.render(summary))
    tell("done")
    print("\n" + report.render(summary))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/kronecker"), help="everything goes here")
    parser.add_argument("--tasks", default=",".join(problems.SIZES), help="comma-separated")
    parser.add_argument(
        "--peers",
        default="kronfluence,curvlinops,pydvl,dattri,logix,bergson",
        help="comma-separated, may be empty; wherefrom always runs",
    )
    parser.add_argument("--methods", default="", help="ekfac, kfac, identity; all if not given")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds; medians are reported")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a run is stopped")
    parser.add_argument("--resume", action="store_true", help="keep the runs that --out holds already")
    parser.add_argument(
        "--report-only", action="store_true", help="no runs: a table of those that --out holds already"
    )
    parser.add_argument(
        "--data", help="data folder; else WHEREFROM_DATA, else ../shared/data, else synthetic"
    )
    parser.add_argument("--quick", action="store_true", help="tiny tasks: checks that all of it runs")
    parser.add_argument("--skip-install", action="store_true", help="use the environments as they are")
    parser.add_argument("--skip-convergence", action="store_true", help="leave the CG comparison out")
    return parser.parse_args()


def _task(task: str, out: Path, marks: str, data: Path | None, quick: bool, tell: Progress) -> Path:
    path = out / f"{task}-{marks}.npz"
    if not path.exists():
        tell(f"training {task}")
        problems.build(task, path, data, quick)
    return path


def _rounds(
    chosen: list[tuple[Entrant, str]],
    paths: dict[str, Path],
    kept: Path,
    given: argparse.Namespace,
    tell: Progress,
) -> dict[tuple[str, str], tuple[Entrant, list[launch.Run]]]:
    """All entrants of a task in turn, the slow ones once; a failure is not tried again."""
    runs: dict[tuple[str, str], tuple[Entrant, list[launch.Run]]] = {}
    for round_ in range(given.repeats):
        for entrant, task in chosen:
            _, done = runs.setdefault((task, entrant.name), (entrant, []))
            if done and (done[0].failure or done[0].cpu("total") > SLOW):
                continue
            work = kept / task / entrant.name / str(round_)
            if not (work / "run.json").exists():
                if given.report_only:
                    continue
                tell(f"round {round_ + 1} of {given.repeats}: {task} {entrant.name}")
                launch.run(entrant, task, paths[task], work, given.limit)
            done.append(launch.load(work))
            if done[-1].failure:
                tell(f"  {task} {entrant.name}: {done[-1].failure}")
    return runs


def _references(
    chosen: list[tuple[Entrant, str]],
    paths: dict[str, Path],
    out: Path,
    marks: str,
    build: bool,
    tell: Progress,
) -> dict[tuple[str, str], Path]:
    """Float64 scores by task and estimand; the full Gauss-Newton matrix under the key `ggn`. Without `build`
    those that are there."""
    found = {}
    for entrant, task in chosen:
        estimand = entrant.estimand(task)
        path = out / f"{task}-{estimand.key}-{marks}.npz"
        if build and not path.exists():
            tell(f"reference of {task}, {estimand.key}")
            kronecker_reference.build(paths[task], path, estimand, tell)
        if path.exists():
            found[task, estimand.key] = path
    for task in set(paths) & set(GGN_TASKS):
        path = out / f"{task}-ggn-{marks}.npz"
        if build and not path.exists():
            tell(f"reference of {task}, full Gauss-Newton matrix")
            ggn_reference.build(paths[task], path, tell)
        if path.exists():
            found[task, "ggn"] = path
    return found


def _fingerprint(names: tuple[str, ...], kind: str) -> str:
    """Changes with whatever decides the tasks or references, so that a cached file is never stale."""
    here = Path(__file__).resolve().parent
    source = b"".join((here / name).read_bytes() for name in names)
    return hashlib.sha256(source + kind.encode()).hexdigest()[:10]


if __name__ == "__main__":
    main()
