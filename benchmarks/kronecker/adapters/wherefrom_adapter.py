"""wherefrom. Scores come as they are compared: `∇ℓ_qᵀ C_λ⁻¹ ∇ℓ_i`, queries × train, under a mean loss."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

import wherefrom


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    solver = wherefrom.EKFAC(_labels(settings), score_rtol=settings.get("score_rtol", 0.0), probes=0)
    return _scores(solver, problem, settings, stages)


def kfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    solver = wherefrom.KFAC(
        _labels(settings),
        factored=settings.get("factored", False),
        score_rtol=settings.get("score_rtol", 0.0),
        probes=0,
    )
    return _scores(solver, problem, settings, stages)


def identity(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores(wherefrom.Identity(), problem, settings, stages)


def _labels(settings: dict[str, Any]) -> str:
    return "auto" if settings["labels"] == "empirical" else settings["labels"]


def _scores(
    solver: Any, problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages
) -> np.ndarray:
    with stages.stage("fit"):
        influence = wherefrom.Influence(
            problem.model,
            (problem.X, problem.y),
            loss=wherefrom.CrossEntropy(token_reduction="sum"),
            parameters=problem.parameter_names,
            curvature="empirical_fisher" if settings["labels"] == "empirical" else "ggn",
            solver=solver,
            damping=problem.damping,
            progress=False,
        ).fit()
    with stages.stage("scores"):
        return np.asarray(influence.scores((problem.Xq, problem.yq)).values)


if __name__ == "__main__":
    harness.main({"ekfac": ekfac, "kfac": kfac, "identity": identity}, "wherefrom")
