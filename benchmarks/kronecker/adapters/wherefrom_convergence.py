"""One case of the comparison of `convergence.py`: a task's path and JSON settings in, one JSON object out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import common
import harness
import torch

import wherefrom

DAMPING = 0.01
RTOL = 1e-3
RANK = 300


def main() -> None:
    torch.set_num_threads(1)
    problem, settings = harness.load(Path(sys.argv[1])), json.loads(sys.argv[2])
    queries = problem.head(len(problem.y), settings["queries"])
    rank = min(RANK, len(problem.y))
    preconditioner = {
        "none": None,
        "EK-FAC": wherefrom.EKFAC("exact", probes=0),
        "Nyström": wherefrom.Nystrom(rank=rank),
    }[settings["preconditioner"]]
    block = 1 if settings["columns"] == "one" else len(queries.yq)
    start = common.cpu_seconds()
    influence = wherefrom.Influence(
        problem.model,
        (problem.X, problem.y),
        loss="cross_entropy",
        parameters=problem.parameter_names,
        curvature="ggn",
        solver=wherefrom.CG(rtol=RTOL, max_iterations=2000, block=block, preconditioner=preconditioner),
        damping=DAMPING,
        progress=False,
    ).fit()
    gradients = harness.per_example_gradients(problem, queries.Xq, queries.yq)
    solution = influence.prepared.solve(torch.cat([g.flatten(1) for g in gradients], dim=1).T)
    residuals = solution.residual_norm / solution.rhs_norm
    iterations = solution.iterations.double()
    print(
        json.dumps(
            {
                "columns": settings["columns"] if block == 1 else f"block of {block}",
                "products": f"{iterations.mean():.0f} ({iterations.min():.0f} to {iterations.max():.0f})",
                "shared": rank if settings["preconditioner"] == "Nyström" else 0,
                "mean_products": float(iterations.mean()),
                "residual": f"{residuals.max():.1e}",
                "cpu": common.cpu_seconds() - start,
            }
        )
    )


if __name__ == "__main__":
    main()
