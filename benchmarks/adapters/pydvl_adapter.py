"""pyDVL. Scores as they come: ⟨(H + regularisation·I)⁻¹ ∇ℓ_q, ∇ℓ_i⟩, queries × train; no factor to undo.

Its "Gauss-Newton" is the empirical Fisher, so only the Hessian is compared. ``CgInfluence`` stops where
the residual norm falls below max(rtol²·‖·‖, atol²). In the unblocked solver that norm is taken along
the wrong axis: it is 0 for a parameter without gradient, and the solver then runs to ``maxiter``.
``rtol=0`` and ``atol=√tolerance`` avoid that. Training gradients go in blocks, so that they need not
all be held at once.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import common
import numpy as np
import torch
from pydvl.influence.torch import CgInfluence, DirectInfluence, LissaInfluence
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


def direct(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    return _scores(DirectInfluence(task.model, cross_entropy, task.ridge), _whole(task), task, stages)


def cg(task: common.Task, settings: dict[str, Any], stages: common.Stages, block: bool = False) -> np.ndarray:
    influence = CgInfluence(
        task.model,
        cross_entropy,
        task.ridge,
        rtol=0.0,
        atol=sqrt(settings["tolerance"]),
        maxiter=settings["maxiter"],
        solve_simultaneously=block,
    )
    return _scores(influence, _whole(task), task, stages)


def block_cg(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    return cg(task, settings, stages, block=True)


def lissa(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    influence = LissaInfluence(
        task.model,
        cross_entropy,
        task.ridge,
        maxiter=settings["depth"],
        scale=settings["scale"],
        rtol=0.0,
        warn_on_max_iteration=False,
    )
    batch = min(settings["batch"], len(task.y))
    return _scores(influence, DataLoader(TensorDataset(task.X, task.y), batch_size=batch), task, stages)


def _whole(task: common.Task) -> DataLoader:
    """All examples as one batch, sliced rather than collated one by one: the fastest loader that works."""
    data = TensorDataset(task.X, task.y)
    return DataLoader(data, batch_size=None, sampler=[slice(0, len(task.y))])


def _scores(influence: Any, loader: DataLoader, task: common.Task, stages: common.Stages) -> np.ndarray:
    with stages.stage("fit"):
        influence.fit(loader)
    with stages.stage("solve"):
        factors = influence.influence_factors(task.Xq, task.yq)
    with stages.stage("scores"):
        blocks = [
            influence.influences_from_factors(factors, X, y).detach()
            for X, y in zip(task.X.split(common.CHUNK), task.y.split(common.CHUNK))
        ]
    return torch.cat(blocks, dim=1).numpy()


if __name__ == "__main__":
    common.main({"direct": direct, "cg": cg, "block_cg": block_cg, "lissa": lissa}, "pyDVL")
