"""dattri's `IFAttributorEKFAC`: linear layers, empirical Fisher. Scores are train × queries, transposed here.

It takes query gradients again for every training batch, so the training set goes in few, large batches.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.task import AttributionTask
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        X, y = data
        outputs = torch.func.functional_call(problem.model, parameters, X)
        return harness.sum_loss(outputs, y) / len(y)

    train = DataLoader(TensorDataset(problem.X, problem.y), batch_size=settings["batch"])
    queries = DataLoader(TensorDataset(problem.Xq, problem.yq), batch_size=len(problem.yq))
    with stages.stage("fit"):
        task = AttributionTask(loss, problem.model, problem.model.state_dict())
        attributor = IFAttributorEKFAC(task, module_name=problem.modules, damping=problem.damping)
        attributor.cache(train)
    with stages.stage("scores"):
        return attributor.attribute(train, queries).detach().T.numpy()


if __name__ == "__main__":
    harness.main({"ekfac": ekfac}, "dattri")
