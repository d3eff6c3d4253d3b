"""pyDVL's `EkfacInfluence`: linear layers and cross-entropy only, everything else has to be frozen.

Its curvature is that of one backward pass per batch with the output gradient `Σ_c √p_c ∇log p_c`, which has
cross terms between classes: neither the exact Fisher nor a sample of it. Its eigenvalues take the positions
of a sequence as independent, and its loss is the mean over positions: scores are multiplied by `t²` to
compare. Queries and training examples are held as dense gradients; training ones go in blocks.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import torch
from pydvl.influence.torch import EkfacInfluence
from torch.utils.data import DataLoader, TensorDataset


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores(True, problem, settings, stages)


def kfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores(False, problem, settings, stages)


def _scores(
    corrected: bool, problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages
) -> np.ndarray:
    chunk, tokens = settings["chunk"], problem.tokens
    with stages.stage("fit"):
        names = set(problem.parameter_names)
        for name, parameter in problem.model.named_parameters():
            parameter.requires_grad_(name in names)
        model = problem.model if tokens == 1 else harness.ClassesSecond(problem.model)
        influence = EkfacInfluence(model, update_diagonal=corrected, hessian_regularization=problem.damping)
        influence.fit(DataLoader(TensorDataset(problem.X, problem.y), batch_size=settings["batch"]))
    with stages.stage("scores"):
        factors = influence.influence_factors(problem.Xq, problem.yq)
        blocks = [
            influence.influences_from_factors(factors, X, y).detach()
            for X, y in zip(problem.X.split(chunk), problem.y.split(chunk))
        ]
        return (torch.cat(blocks, dim=1) * float(tokens) ** 2).numpy()


if __name__ == "__main__":
    harness.main({"ekfac": ekfac, "kfac": kfac}, "pydvl")
