"""kronfluence: factors to a temporary folder, then pairwise scores.

True labels give the empirical Fisher, sampled ones the true Fisher's estimate (its default). The damping is
passed as it is; `None` would mean a tenth of each layer's mean eigenvalue.
"""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import harness
import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class SummedLoss(Task):
    """Cross-entropy summed over positions; the query's loss is the measurement."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        outputs = model(batch[0])
        return harness.sampled_loss(outputs) if sample else harness.sum_loss(outputs, batch[1])

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores("ekfac", problem, settings, stages)


def kfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores("kfac", problem, settings, stages)


def identity(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores("identity", problem, settings, stages)


def _scores(
    strategy: str, problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages
) -> np.ndarray:
    logging.disable(logging.WARNING)
    train, queries = TensorDataset(problem.X, problem.y), TensorDataset(problem.Xq, problem.yq)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        with stages.stage("fit"):
            task = SummedLoss(problem.modules)
            model = prepare_model(problem.copied_model(), task)
            analyzer = Analyzer("benchmark", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
            analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
            factors = FactorArguments(
                strategy=strategy, use_empirical_fisher=settings.get("labels") == "empirical"
            )
            analyzer.fit_all_factors(
                "factors", train, per_device_batch_size=settings["fit_batch"], factor_args=factors
            )
        with stages.stage("scores"):
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                query_dataset=queries,
                train_dataset=train,
                per_device_query_batch_size=settings["query_batch"],
                per_device_train_batch_size=settings["train_batch"],
                score_args=ScoreArguments(
                    damping_factor=problem.damping if settings.get("damping") != "relative" else None
                ),
            )
            return analyzer.load_pairwise_scores("scores")["all_modules"].numpy()


if __name__ == "__main__":
    harness.main({"ekfac": ekfac, "kfac": kfac, "identity": identity}, "kronfluence")
