"""The study itself: which settings are run, each changing one thing from a common starting point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from study_measure import Spread, cg_run, lissa_runs, of_repeats
from study_problems import Problem

import wherefrom

# A bias far below the noise, so that one does not hide the other.
START = {"bias": 1e-3, "batch_size": 64}
REPEATS = 4
RTOLS = tuple(10.0**-e for e in range(1, 9))


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        seeds: runs of each LiSSA setting.
        condition: condition number at the starting point; at a hundred LiSSA takes about a thousand steps.
        conditions: condition numbers that damping brings `C_λ` to.
        batches: examples per mini-batch.
        depths, scales: as multiples of what LiSSA chooses itself.
    """

    seeds: int = 16
    condition: float = 100.0
    conditions: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0)
    batches: tuple[int, ...] = (4, 16, 64, 256)
    depths: tuple[float, ...] = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
    scales: tuple[float, ...] = (0.125, 0.25, 0.35, 0.5, 1.0, 2.0, 4.0)


def study(problem: Problem, plan: Plan) -> dict[str, Any]:
    """Every measurement of one problem, as JSON values."""
    damping = problem.damping_for(plan.condition)
    exact = problem.exact(damping)
    found, start = lissa_runs(problem, damping, plan.seeds, **START)
    repeats = [1 << k for k in range(plan.seeds.bit_length()) if 1 << k <= plan.seeds // 2]

    def one(**settings: Any) -> dict[str, Any]:
        return lissa_runs(problem, damping, plan.seeds, **START | settings)[1].row()

    depths = [max(1, round(share * start.depth)) for share in plan.depths]
    floor = problem.curvature.lower_bound + damping
    return {
        "problem": problem.name,
        "n": problem.n,
        "p": problem.curvature.size,
        "largest_eigenvalue": problem.largest,
        "reference_condition": plan.condition,
        "damping": damping,
        "start": start.row(),
        "start_repeats": REPEATS,
        "repeats": [{"repeats": r, "rms": of_repeats(found, exact, r)} for r in repeats],
        "depth": [one(depth=depth) | {"bias_bound": (1 - floor / start.scale) ** depth} for depth in depths],
        "scale": [one(scale=share * start.scale) | {"share": share} for share in plan.scales],
        "batch": [one(batch_size=size) for size in plan.batches],
        "damping_sweep": [_at_condition(problem, condition, plan) for condition in plan.conditions],
        "cg": [
            cg_run(problem, problem.damping_for(condition), rtol) | {"condition": condition}
            for condition in sorted({plan.conditions[0], plan.condition, plan.conditions[-1]})
            for rtol in RTOLS
        ],
        "product_seconds": problem.product_seconds((*plan.batches, problem.n)),
    }


def _at_condition(problem: Problem, condition: float, plan: Plan) -> dict[str, Any]:
    """What damping does: how far it moves the exact answer, and what each solver leaves of its own."""
    damping = problem.damping_for(condition)
    exact, undamped = problem.exact(damping), problem.exact(0.0)
    spread: Spread = lissa_runs(problem, damping, max(2, plan.seeds // 4), **START)[1]
    return {
        "condition": condition,
        "damping": damping,
        "moved": float((exact - undamped).norm() / undamped.norm()),
        "lissa": spread.row(),
        "lissa_after_repeats": spread.after(REPEATS),
        "cg": cg_run(problem, damping, wherefrom.CG().rtol),
    }
