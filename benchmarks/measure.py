"""One run of one competitor: a subprocess, its scores against the reference, its report."""

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
from competitors import Competitor, Settings

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Run:
    """What one run gave; ``failure`` is empty unless it gave no scores."""

    error: float
    error_median: float
    cpu: float
    wall: float
    peak_mib: float
    report: dict[str, Any]
    failure: str = ""


def run(
    competitor: Competitor, settings: Settings, task: Path, reference: Path, work: Path, limit: float
) -> Run:
    """Runs the adapter in its environment; every way to fail comes back as a ``Run`` that says so."""
    shutil.rmtree(work, ignore_errors=True)
    adapter = Path(__file__).resolve().parent / "adapters" / f"{competitor.library}_adapter.py"
    command = [
        str(environments.python(competitor.library)),
        "-W",
        "ignore",
        str(adapter),
        "--task",
        str(task),
    ]
    settings = {**settings, "curvature": competitor.curvature}
    command += ["--method", competitor.method, "--settings", json.dumps(settings), "--out", str(work)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, **ONE_THREAD},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failed(f"stopped after {limit:.0f} s")
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()]
        return _failed(last[-1][:300] if last else f"exit status {done.returncode}")
    report = json.loads((work / "report.json").read_text())
    scores, truth = np.load(work / "scores.npy").astype(np.float64), np.load(reference)["scores"]
    if scores.shape != truth.shape:
        return _failed(f"scores of shape {scores.shape}, expected {truth.shape}")
    errors = relative_errors(scores, truth)
    total = report["stages"]["total"]
    return Run(
        float(errors.max()), float(np.median(errors)), total["cpu"], total["wall"], report["peak_mib"], report
    )


def relative_errors(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Per query, ‖s − s_ref‖ / ‖s_ref‖ over the training set; NaN scores count as infinitely wrong."""
    errors = np.linalg.norm(scores - truth, axis=1) / np.linalg.norm(truth, axis=1)
    return np.where(np.isfinite(errors), errors, np.inf)


def _failed(why: str) -> Run:
    return Run(float("inf"), float("inf"), float("nan"), float("nan"), float("nan"), {}, why)
