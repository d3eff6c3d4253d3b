"""Scores and self-influence where each layer is inverted apart: factored gradients on both sides, contracted
by a plan, and the distance to the full curvature's answer measured on a few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.gradients import ExampleGradients, LayerGradients
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers.contraction import GradientSource, Plan, contract, plan_contraction
from wherefrom.solvers.pairing import OwnScores, Pairing, PairScores

# Training examples whose scores are compared to estimate the distance to the full curvature's answer.
_PROBED_TRAIN = 256
# The approximation's error grows with the score: on digit readers (softmax, dense, conv) four in five
# errors are within a factor of five of `distance |score|`, one in three of `distance` times a typical score.
# Scores near zero are off by this share of what a typical one is, at least.
_LEAST = 0.02
# Rounding, in units of the dtype's, relative to a query's scores: sums over layers of sums over entries.
_ROUNDING = 64


class LayerwisePairs:
    """Pairs of gradients through one inverse per layer.

    Args:
        layers: factored gradients of the objective.
        inverses: per block.
        score_rtol: error that the contraction may make in a query's scores, relative to their norm.
        probes: queries on which the distance to the full curvature's answer is measured; 0 for none.
    """

    def __init__(
        self, layers: LayerGradients, inverses: Sequence[BlockInverse], score_rtol: float, probes: int
    ):
        self._layers = layers
        self._inverses = inverses
        self._score_rtol = score_rtol
        self._probes = probes

    def plan(self, pairing: Pairing, gradients: ExampleGradients) -> Plan:
        """How queries and training examples are contracted."""
        queries, examples = self._source(gradients), self._source(pairing.train)
        return plan_contraction(self._inverses, queries, examples, rtol=self._score_rtol)

    def scores(self, pairing: Pairing, gradients: ExampleGradients) -> PairScores:
        """`∇mᵀ M⁻¹ g_i` with the block inverse `M⁻¹`; nothing is proven of its distance from `C_λ⁻¹`."""
        plan = self.plan(pairing, gradients)
        values = torch.empty(len(gradients), len(pairing.train), dtype=pairing.objective.dtype)

        def put(these: slice, where: slice, scores: Tensor) -> None:
            values[these, where] = scores.T.cpu()

        queries, train = self._source(gradients), self._source(pairing.train)
        with memory_errors("scoring", "Lower memory= or pass fewer queries at once."):
            contract(plan, self._inverses, queries, train, progress=pairing.progress, on_batch=put)
        distance, residual, share = self._distance(pairing, gradients)
        return PairScores(
            values=values,
            error=_expected(values, distance, plan.measured_error),
            # One number seen from all places: there is nothing to hold.
            bound=values.new_full((1, 1), math.inf).expand_as(values),
            converged=torch.ones(len(values), dtype=torch.bool),
            reason="",
            relative_residual=torch.full((len(values),), residual, dtype=values.dtype),
            damping_share=share,
            distance=distance if math.isfinite(distance) else None,
            plan=plan.as_dict(),
        )

    def self_scores(self, pairing: Pairing, index: Int[Tensor, " k"]) -> OwnScores:
        """`g_iᵀ M⁻¹ g_i` of these training examples, from squares in the eigenbasis."""
        source = self._source(pairing.train)
        device = pairing.objective.device
        values = []
        with progress_bar("self-influence", len(index), enabled=pairing.progress) as bar:
            for part in index.split(self._layers.batch_size()):
                capture = self._layers.capture(source.examples, part.to(device))
                total = torch.zeros(len(part), dtype=torch.float64, device=device)
                for inverse, form in zip(self._inverses, source.forms(capture)):
                    rotated = form.rotated(inverse.basis.left, inverse.basis.right)
                    total += rotated.weighted_squares(inverse.weights)[0]
                values.append(total.cpu())
                bar.advance(len(part))
        made = torch.cat(values).to(pairing.objective.dtype)
        distance = self._distance(pairing, pairing.train)[0]
        return OwnScores(
            values=made,
            error=made.abs() * math.hypot(distance, _ROUNDING * torch.finfo(made.dtype).eps),
            bound=torch.full_like(made, math.inf),
            converged=torch.ones(len(made), dtype=torch.bool),
            reason="",
        )

    def _source(self, gradients: ExampleGradients) -> GradientSource:
        return GradientSource(self._layers, gradients.examples, gradients.measure)

    def _distance(self, pairing: Pairing, gradients: ExampleGradients) -> tuple[float, float, float | None]:
        """How far scores are from those of the full damped curvature `C_λ`, relative to their size, and the
        relative residual, on a few queries: the scores of what their solutions miss, as far as that was
        found, beside the scores of the solutions, on a sample of training examples.

        Returns:
            `(distance, residual, share)`, the last that of scores decided by damping; infinite, NaN and
            `None` without probes.
        """
        count = min(self._probes, len(gradients))
        if count == 0:
            return math.inf, math.nan, None
        device = pairing.objective.device
        rhs = gradients.rows(torch.tensor(gradients.examples.spread(count), device=device)).T
        solution = pairing.solve(rhs)
        missing = solution.error_directions[0]
        train = pairing.train
        index = torch.tensor(train.examples.spread(_PROBED_TRAIN), device=device)
        own, lost = 0.0, 0.0
        for part in index.split(train.engine.rows_per_batch()):
            rows = train.rows(part)
            own += float((rows @ solution.x).double().square().sum())
            lost += float((rows @ missing).double().square().sum())
        relative = solution.relative_residual[solution.rhs_norm > 0]
        mean = float(relative.mean()) if len(relative) else 0.0
        distance = (lost / own) ** 0.5 if own > 0 else 0.0
        return distance, mean, pairing.damping_share(rhs, solution.x)


def _expected(values: Float[Tensor, "q n"], distance: float, contraction: float) -> Float[Tensor, "q n"]:
    """Expected errors: that of the approximation in proportion to each score, that of the contraction and
    rounding to a query's typical one."""
    if not math.isfinite(distance):
        return torch.full_like(values, math.inf)
    typical = torch.stack([row.double().norm() for row in values])[:, None] / values.shape[1] ** 0.5
    typical = typical.to(values.dtype)
    even = math.hypot(_LEAST * distance, contraction, torch.finfo(values.dtype).eps * _ROUNDING)
    return torch.hypot(distance * values.abs(), even * typical)
