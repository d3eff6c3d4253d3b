"""wherefrom. The score is its own convention: ∇ℓ_qᵀ (C + λI)⁻¹ ∇ℓ_i, queries × train; no factor to undo."""

from __future__ import annotations

from typing import Any

import common
import numpy as np

import wherefrom


def exact(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    return _scores(wherefrom.Exact(), task, settings, stages)


def cg(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    return _scores(wherefrom.CG(rtol=settings["rtol"]), task, settings, stages)


def lissa(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    solver = wherefrom.LiSSA(
        scale=settings["scale"],
        depth=settings["depth"],
        repeats=1,
        batch_size=settings["batch"],
    )
    return _scores(solver, task, settings, stages)


def _scores(solver: Any, task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    with stages.stage("fit"):
        influence = wherefrom.Influence(
            task.model,
            (task.X, task.y),
            loss="cross_entropy",
            weight_decay=task.weight_decay,
            curvature=settings["curvature"],
            solver=solver,
            damping=task.damping,
            progress=False,
        ).fit()
    with stages.stage("solve and scores"):
        return np.asarray(influence.scores((task.Xq, task.yq)).values)


if __name__ == "__main__":
    common.main({"exact": exact, "cg": cg, "lissa": lissa}, "wherefrom", wherefrom.__version__)
