"""Factored gradients of a problem against its dense Jacobian."""

from __future__ import annotations

import torch

from tests.problems import N, Problem, normal
from wherefrom.gradients import GradientEngine, LayerGradients


def exact(problem: Problem, **options: object) -> dict[str, tuple[str, str]]:
    """Check every block on all examples, on a few and on one; rule and reason by block."""
    objective = problem.objective()
    layers = LayerGradients(GradientEngine(objective), **options)
    jacobian = problem.dense().jacobian()
    covered = torch.cat([block.index.reshape(-1) for block in layers.blocks])
    assert covered.sort().values.tolist() == list(range(objective.p))
    for where in (slice(0, N), slice(3, 7), slice(N - 1, N)):
        capture = layers.capture(objective.examples, where)
        with torch.no_grad():
            expected = problem.forward(problem.model)[where]
        torch.testing.assert_close(capture.outputs, expected)
        for k in (1, 3):
            cotangents = normal(k, *capture.outputs.shape, seed=k)
            truth = torch.einsum(
                "kno,nop->knp", cotangents.reshape(*cotangents.shape[:2], -1), jacobian[where]
            )
            found = torch.full_like(truth, float("nan"))
            for block, form in zip(layers.blocks, capture.gradients(cotangents)):
                assert form.shape == block.shape and (form.k, form.b) == found.shape[:2]
                found[:, :, block.index.reshape(-1)] = form.rows()
            torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-10)
    assert layers.batch_size(3) >= 1
    return {row.block: (row.rule, row.reason) for row in layers.coverage()}
