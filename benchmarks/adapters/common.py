"""What every adapter shares: loading a task, timing its stages, measuring its memory, reporting.

An adapter is a script with a table ``method → function(task, settings, stages) → scores (queries × train)``.
It runs alone in its library's environment, so this file needs torch and NumPy only.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CHUNK = 250  # training examples whose dense gradients are held at once, where the library leaves that to us


@dataclass(frozen=True)
class Task:
    """A trained float32 model with its data."""

    model: nn.Sequential
    X: Tensor
    y: Tensor
    Xq: Tensor
    yq: Tensor
    weight_decay: float
    damping: float

    @property
    def ridge(self) -> float:
        """Weight decay + damping, for libraries that know only one number."""
        return self.weight_decay + self.damping

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


class Stages:
    """CPU and wall seconds by stage. CPU time is user + system, of this process and its children."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        cpu, wall = cpu_seconds(), time.perf_counter()
        yield
        self.seconds[name] = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}


Method = Callable[[Task, dict[str, Any], Stages], np.ndarray]


def main(methods: Mapping[str, Method], package: str, version: str | None = None) -> None:
    """Command line of an adapter: warm up on a tiny task, run once on the real one, write ``--out``."""
    run_adapter(methods, load, _toy, package, version)


def run_adapter(
    methods: Mapping[str, Callable[[Any, dict[str, Any], Stages], np.ndarray]],
    load: Callable[[Path], Any],
    toy: Callable[[Any], Any],
    package: str,
    version: str | None,
) -> None:
    """The command line that all adapters share: ``load`` reads a task, ``toy`` makes a tiny one of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True, type=Path)
    parser.add_argument("--method", required=True, choices=sorted(methods))
    parser.add_argument("--settings", default="{}", help="JSON object")
    parser.add_argument("--out", required=True, type=Path, help="folder for scores.npy and report.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings, task = json.loads(given.settings), load(given.task)
    measure_into(given.out, methods[given.method], task, toy(task), settings, package, version)


def measure_into(
    out: Path,
    method: Callable[[Any, dict[str, Any], Stages], np.ndarray],
    task: Any,
    toy: Any,
    settings: dict[str, Any],
    package: str,
    version: str | None = None,
) -> None:
    """Runs ``method`` on ``toy``, then timed on ``task``; writes ``scores.npy`` and ``report.json``."""
    # Lazy imports and the first call's set-up belong to no method: a toy problem absorbs them.
    method(toy, settings, Stages())
    gc.collect()
    _reset_peak()
    before, stages = _status_kib("VmRSS"), Stages()
    with stages.stage("total"):
        scores = method(task, settings, stages)
    peak = _status_kib("VmHWM")

    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "scores.npy", np.ascontiguousarray(scores))
    report = {
        "package": package,
        "version": version or importlib.metadata.version(package),
        "torch": torch.__version__,
        "stages": stages.seconds,
        "peak_mib": max(0, peak - before) / 1024,
        "baseline_mib": before / 1024,
        "gemm_flops_per_second": gemm_rate(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=1))


def load(path: Path) -> Task:
    z = np.load(path)
    depth = sum(name.startswith("bias_") for name in z.files)
    weights = [(z[f"weight_{i}"], z[f"bias_{i}"]) for i in range(depth)]
    data = [torch.from_numpy(z[name]) for name in ("X", "y", "Xq", "yq")]
    return Task(_model(weights), *data, float(z["weight_decay"]), float(z["damping"]))


def query_gradients(task: Task) -> Tensor:
    """Dense per-example gradients of the queries (queries × parameters), for libraries that offer none."""
    return _per_example_gradients(task.model, task.Xq, task.yq)


def dot_with_train(task: Task, solutions: Tensor) -> np.ndarray:
    """``solutions`` (queries × parameters) against every training gradient, in blocks of ``CHUNK``."""
    blocks = [
        solutions @ _per_example_gradients(task.model, X, y).T
        for X, y in zip(task.X.split(CHUNK), task.y.split(CHUNK))
    ]
    return torch.cat(blocks, dim=1).numpy()


def cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def gemm_rate(size: int = 1024, repeats: int = 8) -> float:
    """FLOP/s of a square float32 product in this process: the best of ``repeats``."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _per_example_gradients(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, params, x[None])
        return nn.functional.cross_entropy(logits, label[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, X, y)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


def _model(weights: list[tuple[np.ndarray, np.ndarray]]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (weight, bias) in enumerate(weights):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        layers += [layer] + ([nn.ReLU()] if i < len(weights) - 1 else [])
    return nn.Sequential(*layers).eval()


def _toy(task: Task) -> Task:
    """Same depth, 16 examples, 2 queries; all eigenvalues near its ridge of 0.5, so any settings converge."""
    rng = np.random.default_rng(0)
    depth = sum(isinstance(m, nn.Linear) for m in task.model)
    widths = [5] + [4] * (depth - 1) + [3]
    weights = [
        (0.1 * rng.normal(size=(b, a)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in itertools.pairwise(widths)
    ]
    X = torch.from_numpy(0.1 * rng.normal(size=(18, 5)).astype(np.float32))
    y = torch.arange(18) % 3
    return Task(_model(weights), X[:16], y[:16], X[16:], y[16:], 0.25, 0.25)


def _reset_peak() -> None:
    """Linux: writing 5 to clear_refs makes VmHWM start again from the present resident size."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status: expected a line {field}, found none")
