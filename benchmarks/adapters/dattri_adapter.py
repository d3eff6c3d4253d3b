"""dattri. Scores are train × queries and are transposed here; with a mean loss no other factor is needed.

``IFAttributorCG`` has no stopping rule (its ``tol`` is unused): ``max_iter`` is the only dial. It
solves for the queries again for every training batch, so the training set is given as one batch:
fastest, at the price of all gradients in memory. Queries come in batches of ``query_batch``, which
costs no work twice and keeps the vmapped products small.
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorCG, IFAttributorExplicit
from dattri.task import AttributionTask
from torch.utils.data import DataLoader, TensorDataset


def explicit(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    return _scores(IFAttributorExplicit(_task(task), regularization=task.ridge), task, stages, len(task.yq))


def cg(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    attributor = IFAttributorCG(
        _task(task), max_iter=settings["max_iter"], mode=settings["mode"], regularization=task.ridge
    )
    return _scores(attributor, task, stages, settings["query_batch"])


def _task(task: common.Task) -> AttributionTask:
    def loss(params: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        X, y = data
        return torch.nn.functional.cross_entropy(torch.func.functional_call(task.model, params, X), y)

    return AttributionTask(loss, task.model, task.model.state_dict())


def _scores(attributor: Any, task: common.Task, stages: common.Stages, query_batch: int) -> np.ndarray:
    train = DataLoader(TensorDataset(task.X, task.y), batch_size=len(task.y), shuffle=False)
    queries = DataLoader(TensorDataset(task.Xq, task.yq), batch_size=query_batch, shuffle=False)
    with stages.stage("fit"):
        attributor.cache(train)
    with stages.stage("solve and scores"):
        return attributor.attribute(train, queries).detach().T.numpy()


if __name__ == "__main__":
    common.main({"explicit": explicit, "cg": cg}, "dattri")
