"""One run of one entrant: a subprocess in its library's environment, its scores and its report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import numpy as np
from entrants import Entrant
from measure import ONE_THREAD

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Run:
    """`failure` is empty unless the run gave no scores."""

    scores: np.ndarray | None
    report: dict[str, Any]
    failure: str = ""

    def cpu(self, stage: str) -> float:
        return float(self.report["stages"][stage]["cpu"])


def environment() -> dict[str, str]:
    """One thread; the adapters import the shared modules beside them. A `PYTHONPATH` that is set is kept, so
    that another checkout of wherefrom can be measured."""
    paths = [str(HERE), str(HERE.parent / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}


def run(entrant: Entrant, task: str, path: Path, work: Path, limit: float) -> None:
    """Runs the adapter; `load(work)` gives what came of it. Every way to fail is recorded there."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    command = [str(environments.python(entrant.library)), "-W", "ignore"]
    command += [str(HERE / "adapters" / f"{entrant.library}_adapter.py"), "--task", str(path)]
    command += ["--method", entrant.method, "--settings", json.dumps(entrant.settings_for(task))]
    command += ["--out", str(work)]
    failure = ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=environment(), check=False
        )
    except subprocess.TimeoutExpired:
        failure = f"stopped after {limit:.0f} s"
    else:
        if done.returncode != 0:
            last = [line for line in done.stderr.splitlines() if line.strip()]
            failure = last[-1].strip()[:300] if last else f"exit status {done.returncode}"
        elif not np.isfinite(np.load(work / "scores.npy")).all():
            failure = "scores that are not finite"
    (work / "run.json").write_text(json.dumps({"failure": failure}))


def load(work: Path) -> Run:
    failure = json.loads((work / "run.json").read_text())["failure"]
    if failure:
        return Run(None, {}, failure)
    scores = np.load(work / "scores.npy").astype(np.float64)
    return Run(scores, json.loads((work / "report.json").read_text()))
