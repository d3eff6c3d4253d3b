"""One setting of a solver from many seeds: bias, spread and cost of its scores against the exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from study_problems import Problem
from torch import Tensor

import wherefrom
from wherefrom.errors import DivergenceError


@dataclass(frozen=True)
class Spread:
    """What several seeds of LiSSA show; errors are relative to the norm of the exact scores.

    Attributes:
        bias: `‖mean − exact‖`, with the chance part of the mean taken off; NaN where it cannot be told from 0
            (below `bias_resolution`).
        bias_resolution: the spread of the mean over the seeds.
        deviation: standard deviation of one run.
        rms: root mean square error of one run; what `r` repeats would leave is
            `√(bias² + deviation² / r)`.
        scale, depth: means over the seeds; `batch` as used.
        examples: examples seen by one run, each with all columns at once.
        diverged: share of the seeds that were refused with a `DivergenceError`; the others are measured.
    """

    bias: float
    bias_resolution: float
    deviation: float
    rms: float
    scale: float
    depth: float
    batch: int
    examples: float
    diverged: float
    runs: int

    def after(self, repeats: int) -> float:
        """Expected root mean square error of so many repeats."""
        systematic = 0.0 if self.bias != self.bias else self.bias
        return (systematic**2 + self.deviation**2 / repeats) ** 0.5

    def row(self) -> dict[str, Any]:
        return asdict(self)


def lissa_runs(problem: Problem, damping: float, seeds: int, **settings: Any) -> tuple[list[Tensor], Spread]:
    """Scores of single runs (`repeats=1`), one for each seed, and their spread."""
    operator = problem.curvature.damped(damping)
    exact = problem.exact(damping)
    found, scales, depths, batch, diverged = [], [], [], 0, 0
    for seed in range(seeds):
        prepared = wherefrom.LiSSA(repeats=1, **settings).prepare(operator, seed=seed)
        batch = prepared.notes["batch_size"]
        scales.append(prepared.notes["scale"])
        depths.append(prepared.notes["depth"])
        try:
            found.append(problem.scores(prepared.solve(problem.queries).x))
        except DivergenceError:
            diverged += 1  # what the solver refuses is counted, and has no scores to average
    return found, spread_of(found, exact, _mean(scales), _mean(depths), batch, diverged)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread_of(
    found: Sequence[Tensor], exact: Tensor, scale: float, depth: float, batch: int, diverged: int
) -> Spread:
    nan = float("nan")
    bias = resolution = deviation = rms = nan
    runs, size = len(found), float(exact.norm())
    if runs >= 2:
        stacked = torch.stack(list(found))
        variance = float(stacked.var(dim=0).sum()) / size**2
        off = float((stacked.mean(dim=0) - exact).square().sum()) / size**2
        squared = off - variance / runs
        deviation, resolution = variance**0.5, (variance / runs) ** 0.5
        bias = squared**0.5 if squared > (0.5 * resolution) ** 2 else nan
        rms = _mean([float((one - exact).square().sum()) for one in found]) ** 0.5 / size
    total = runs + diverged
    return Spread(
        bias, resolution, deviation, rms, scale, depth, batch, batch * depth, diverged / total, total
    )


def of_repeats(found: Sequence[Tensor], exact: Tensor, repeats: int) -> float:
    """Root mean square error of means of `repeats` runs, over disjoint groups of them."""
    groups = [
        torch.stack(list(found[start : start + repeats])).mean(0)
        for start in range(0, len(found) - repeats + 1, repeats)
    ]
    return float(torch.stack([(group - exact).norm() ** 2 for group in groups]).mean().sqrt() / exact.norm())


def cg_run(problem: Problem, damping: float, rtol: float) -> dict[str, float]:
    """Conjugate gradients: the error of its scores, its iterations, and the examples seen."""
    prepared = wherefrom.CG(rtol=rtol).prepare(problem.curvature.damped(damping))
    solution = prepared.solve(problem.queries)
    exact = problem.exact(damping)
    iterations = int(solution.iterations.max())
    return {
        "damping": damping,
        "rtol": rtol,
        "error": float((problem.scores(solution.x) - exact).norm() / exact.norm()),
        "iterations": iterations,
        # One product more recomputes the residual.
        "examples": (iterations + 1) * problem.n,
        "converged": float(solution.converged.double().mean()),
    }
