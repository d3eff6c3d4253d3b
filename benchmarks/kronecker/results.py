"""Runs and references → one row per task and entrant."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import bounds
import capturing
import numpy as np
import torch
from entrants import Entrant
from launch import Run
from scipy.stats import rankdata


def summarise(
    runs: dict[tuple[str, str], tuple[Entrant, list[Run]]],
    references: dict[tuple[str, str], Path],
    paths: dict[str, Path],
) -> dict[str, Any]:
    rows = [_row(task, entrant, done, references) for (task, _), (entrant, done) in runs.items()]
    good = [row for row in rows if not row["failure"]]
    rate = statistics.median(row["gemm"] for row in good) if good else float("nan")
    shapes = {task: _shape(path) for task, path in paths.items()}
    for row in good:
        row["floor"] = _floor(row, shapes[row["task"]], rate)
    return {
        "rows": rows,
        "gemm_flops_per_second": rate,
        "tasks": {task: {k: v for k, v in shape.items() if k != "layers"} for task, shape in shapes.items()},
        "floors": {task: _floors(shape, rate) for task, shape in shapes.items()},
        "cpu_model": _cpu_model(),
        "versions": {row["library"]: row["version"] for row in good} | {"torch": torch.__version__},
    }


def _row(
    task: str, entrant: Entrant, done: list[Run], references: dict[tuple[str, str], Path]
) -> dict[str, Any]:
    estimand = entrant.estimand(task)
    row: dict[str, Any] = {
        "task": task,
        "library": entrant.library,
        "method": entrant.method,
        "labels": entrant.labels,
        "plan": entrant.plan,
        "estimand": estimand.key,
        "failure": next((r.failure for r in done if r.failure), ""),
        "runs": len(done),
    }
    if row["failure"] or not done:
        return row
    row |= {stage: statistics.median(r.cpu(stage) for r in done) for stage in ("fit", "scores")}
    row["total"] = statistics.median(r.cpu("fit") + r.cpu("scores") for r in done)
    row["peak_mib"] = statistics.median(r.report["peak_mib"] for r in done)
    row["gemm"] = statistics.median(r.report["gemm_flops_per_second"] for r in done)
    row["version"] = done[0].report["version"]
    row["extra"] = done[0].report.get("extra", {})
    scores = done[-1].scores
    for name, key in (("own", estimand.key), ("ggn", "ggn")):
        if (task, key) in references:
            row[name] = _agreement(scores, np.load(references[task, key])["scores"])
    return row


def _agreement(scores: np.ndarray | None, truth: np.ndarray) -> dict[str, float]:
    """Means over queries of the correlations, the largest and median relative error of a query."""
    if scores is None or scores.shape != truth.shape:
        raise SystemExit(f"scores of shape {np.shape(scores)}, reference {truth.shape}")
    errors = np.linalg.norm(scores - truth, axis=1) / np.linalg.norm(truth, axis=1)
    return {
        "spearman": float(np.mean([_correlation(rankdata(s), rankdata(t)) for s, t in zip(scores, truth)])),
        "pearson": float(np.mean([_correlation(s, t) for s, t in zip(scores, truth)])),
        "error": float(errors.max()),
        "error_median": float(np.median(errors)),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _shape(path: Path) -> dict[str, Any]:
    data = capturing.load(path)
    layers = bounds.layers_of(data)
    return {
        "n": len(data.y),
        "q": len(data.yq),
        "p": sum(layer.outputs * layer.inputs for layer in layers),
        "classes": 1 if data.kind == "gpt2" else 10,
        "damping": data.damping,
        "layers": layers,
    }


def _floor(row: dict[str, Any], shape: dict[str, Any], rate: float) -> float:
    """Seconds for this row's method and labels: full rank for EK-FAC, rank one for the others."""
    fit = 0.0
    if row["method"] != "identity":
        vectors = shape["classes"] if row["labels"] == "exact" else 1
        fit = bounds.fit_flops(shape["layers"], shape["n"], vectors, row["method"] == "ekfac")
    full = row["method"] == "ekfac"
    return (fit + bounds.score_flops(shape["layers"], shape["n"], shape["q"], full)) / rate


def _floors(shape: dict[str, Any], rate: float) -> dict[str, float]:
    layers, n, q = shape["layers"], shape["n"], shape["q"]
    return {
        "fit_exact": bounds.fit_flops(layers, n, shape["classes"], True) / rate,
        "fit_single": bounds.fit_flops(layers, n, 1, True) / rate,
        "full_rank": bounds.score_flops(layers, n, q, True) / rate,
        "rank_one": bounds.score_flops(layers, n, q, False) / rate,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"
