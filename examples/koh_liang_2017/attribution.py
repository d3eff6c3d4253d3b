"""The one place where the experiments call Wherefrom: influence scores of a linear model without bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mnist import Split

import wherefrom


def linear_model(weights: np.ndarray | torch.Tensor) -> torch.nn.Linear:
    """`f(x) = W x` in float64 with the given W, shape (outputs, d) or (d,)."""
    matrix = torch.atleast_2d(torch.as_tensor(weights, dtype=torch.float64))
    model = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(matrix)
    return model.eval()


def scores(
    weights: np.ndarray | torch.Tensor, train: Split, queries: Split, *, loss: Any, alpha: float, solver: Any
) -> wherefrom.Scores:
    """Scores (queries × train): positive is helpful; score / n is the predicted change of loss on removal."""
    influence = wherefrom.Influence(
        linear_model(weights), _pair(train), loss=loss, weight_decay=alpha, solver=solver
    ).fit()
    return influence.scores(_pair(queries))


def self_scores(
    weights: np.ndarray | torch.Tensor, train: Split, *, loss: Any, alpha: float, solver: Any
) -> wherefrom.SelfScores:
    """Self-influence of every training example; divided by n, the rise of its own loss without it."""
    return (
        wherefrom.Influence(
            linear_model(weights),
            _pair(train),
            loss=loss,
            weight_decay=alpha,
            damping=0.0,
            solver=solver,
            progress=False,
        )
        .fit()
        .self_scores()
    )


def _pair(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(split.x), torch.from_numpy(split.y)
