"""curvlinops: its (E)KFAC operators and their inverse; gradients and scores are `torch.func` around them.

Its operators work on the loss averaged over positions too, which for `t` positions is `1/t` of the sum used
here: the damping is divided by `t` on the way in, and so are the solutions on the way out. Weight and bias
are one block, as everywhere else. Training gradients are dense, in blocks of `chunk` examples.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import torch
from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator, KFACLinearOperator
from torch import nn

FISHER = {"exact": "type-2", "sampled": "mc", "empirical": "empirical"}


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores(EKFACLinearOperator, problem, settings, stages)


def kfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    return _scores(KFACLinearOperator, problem, settings, stages)


def _scores(
    operator: Any, problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages
) -> np.ndarray:
    tokens = problem.tokens
    with stages.stage("fit"):
        model = problem.model if tokens == 1 else harness.ClassesSecond(problem.model)
        named = dict(problem.model.named_parameters())
        params = [named[name] for name in problem.parameter_names]
        batches = list(zip(problem.X.split(settings["batch"]), problem.y.split(settings["batch"])))
        curvature = operator(
            model,
            nn.CrossEntropyLoss(),
            params,
            batches,
            fisher_type=FISHER[settings["labels"]],
            check_deterministic=False,
            separate_weight_and_bias=False,
            num_data=len(problem.y),
            num_per_example_loss_terms=tokens,
        )
        inverse = KFACInverseLinearOperator(
            curvature, damping=problem.damping / tokens, use_exact_damping=True
        )
        inverse @ [torch.zeros(*p.shape, 1) for p in params]
    with stages.stage("scores"):
        gradients = harness.per_example_gradients(problem, problem.Xq, problem.yq)
        solved = inverse @ [g.movedim(0, -1) for g in gradients]
        solutions = torch.cat([s.movedim(-1, 0).flatten(1) for s in solved], dim=1) / tokens
        blocks = []
        for X, y in zip(problem.X.split(settings["chunk"]), problem.y.split(settings["chunk"])):
            train = harness.per_example_gradients(problem, X, y)
            blocks.append(solutions @ torch.cat([g.flatten(1) for g in train], dim=1).T)
        return torch.cat(blocks, dim=1).detach().numpy()


if __name__ == "__main__":
    harness.main({"ekfac": ekfac, "kfac": kfac}, "curvlinops-for-pytorch")
