"""Conjugate gradients that stop when the scores have settled, through the public API."""

from __future__ import annotations

import pytest
import torch

import wherefrom
from tests.problems import PROBLEMS
from wherefrom.influence import Fit, FitOptions, compute_scores


@pytest.mark.parametrize(
    "preconditioner", [None, wherefrom.EKFAC(), wherefrom.Nystrom(rank=4)], ids=["plain", "ekfac", "nystrom"]
)
def test_scores_that_settled_are_as_near_as_their_errors_say(preconditioner):
    problem = PROBLEMS["tanh_mlp"]()
    queries = tuple(part[:4] for part in problem.data)

    def scores(solver: wherefrom.solvers.Solver) -> wherefrom.Scores:
        options = FitOptions(curvature="ggn", solver=solver, damping=0.05, progress=False)
        return compute_scores(Fit(problem.objective(), options).fit(), queries)

    exact = scores(wherefrom.Exact())
    settled = scores(
        wherefrom.CG(rtol=1e-10, stop="scores", score_rtol=1e-3, top_k=3, preconditioner=preconditioner)
    )
    assert bool(settled.converged.all())
    off = (settled.values - exact.values).abs()
    assert float((off.norm(dim=1) / exact.values.norm(dim=1)).max()) < 1e-2
    assert bool((off <= settled.bound).all())
    assert torch.equal(settled.values.argsort(1)[:, -3:], exact.values.argsort(1)[:, -3:])
