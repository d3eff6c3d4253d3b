"""LogIX without its random projections: EK-FAC or K-FAC over logged gradients of the true labels.

Weights only: it takes no biases. Every training gradient is written to disk and read back. All queries are
preconditioned in one call, because each call adds the damping to the stored eigenvalues once more.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import chdir
from typing import Any

import harness
import numpy as np
import torch
from logix import LogIX, LogIXScheduler


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores("ekfac", problem, settings, stages)


def kfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores("kfac", problem, settings, stages)


def _scores(
    hessian: str, problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages
) -> np.ndarray:
    os.environ["TQDM_DISABLE"] = "1"
    model, batch = problem.copied_model(), settings["batch"]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        with stages.stage("fit"):
            run = LogIX("benchmark")
            run.watch(model, name_filter=problem.modules)
            for _ in LogIXScheduler(run, lora="none", hessian=hessian, save="grad"):
                for start in range(0, len(problem.y), batch):
                    rows = slice(start, start + batch)
                    ids = [str(i) for i in range(len(problem.y))[rows]]
                    with run(data_id=ids):
                        model.zero_grad()
                        harness.sum_loss(model(problem.X[rows]), problem.y[rows]).backward()
                run.finalize()
        with stages.stage("scores"):
            loader = run.build_log_dataloader(batch_size=settings["score_batch"])
            run.setup({"grad": ["log"]})
            run.eval()
            with run(data_id=[f"q{i}" for i in range(len(problem.yq))]):
                model.zero_grad()
                harness.sum_loss(model(problem.Xq), problem.yq).backward()
            result = run.compute_influence_all(run.get_log(), loader, damping=problem.damping)
            order = torch.tensor([int(i) for i in result["tgt_ids"]])
            scores = torch.empty_like(result["influence"])
            scores[:, order] = result["influence"]
            return scores.detach().numpy()


if __name__ == "__main__":
    harness.main({"ekfac": ekfac, "kfac": kfac}, "logix-ai")
