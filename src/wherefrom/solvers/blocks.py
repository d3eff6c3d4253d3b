"""What solvers that treat layers apart share: one inverse per block of parameters, bound to a model."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse, KroneckerCurvature, inverse_operator
from wherefrom.gradients import Coverage, ExampleGradients, LayerGradients
from wherefrom.linalg import LinearOperator, Spectrum
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.cg_iteration import BlockIteration
from wherefrom.solvers.contraction import Plan
from wherefrom.solvers.layerwise_pairs import LayerwisePairs
from wherefrom.solvers.pairing import OwnScores, Pairing, PairScores
from wherefrom.solvers.repair import measured
from wherefrom.solvers.solution import Solution

# Two steps find the size of what is missing to a tenth or so; one without a line search may be off by orders.
_PROBE_STEPS = 2


class BlockSolver(Solver):
    """A solver that treats layers apart, each in a Kronecker eigenbasis.

    Attributes:
        score_rtol: error that the contraction may make in a query's scores, relative to their norm, for the
            sake of speed; 0 for none.
        probes: queries on which the distance to the full curvature's answer is estimated; 0 for none.
    """

    layers_apart = True
    score_rtol: float = 0.0
    probes: int = 0
    strict: bool = True


class PreparedBlocks(PreparedSolver):
    """Block inverses bound to a model.

    Attributes:
        operator: the full damped curvature, which is approximated.
        layers: factored gradients of the objective.
        curvature: what was gathered; `None` for the identity.
        inverses: per block.
        damping: `λ` per block, weight decay included.
    """

    approximates = True

    def __init__(
        self,
        solver: BlockSolver,
        operator: LinearOperator,
        layers: LayerGradients,
        curvature: KroneckerCurvature | None,
        inverses: list[BlockInverse],
        damping: dict[str, float],
    ):
        self.name = solver.name
        self.left_out = (
            "the curvature of each layer is taken alone" if solver.uses_curvature else "no curvature is used"
        )
        self.layers: LayerGradients = layers
        self.curvature = curvature
        self.inverses = inverses
        self.damping = damping
        self._inverse = inverse_operator(inverses)
        self._pairs = LayerwisePairs(layers, inverses, solver.score_rtol, solver.probes)
        self._probed = solver.probes > 0
        # Nothing is proven of the distance to the full inverse.
        super().__init__(operator, 0.0, False)
        self.notes = {
            "blocks": len(inverses),
            "labels": curvature.labels if curvature is not None else "none",
            "rules": dict(sorted(_count_rules(layers).items())),
        }

    def apply(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """The block inverse of the columns; its residual, which takes a product, is not a number."""
        k = rhs.shape[1]
        return Solution(
            x=self._inverse.matmat(rhs),
            converged=torch.ones(k, dtype=torch.bool),
            reason="",
            iterations=torch.zeros(k, dtype=torch.long),
            residual_norm=rhs.new_full((k,), math.nan),
            rhs_norm=rhs.norm(dim=0),
            error_directions=rhs.new_zeros(0, *rhs.shape),
            error_known=False,
        )

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """The block inverse of the columns. What it misses, `C_λ⁻¹ (v − C_λ M⁻¹ v)`, is approximated by two
        steps of conjugate gradients preconditioned by `M`, and is the error direction; with `probes=0`
        nothing is measured."""
        solution = self.apply(rhs)
        if not self._probed:
            return solution
        residual = rhs - self.operator.matmat(solution.x)
        size = residual.norm(dim=0)
        refuse = functools.partial(measured, self.operator, seed=0)
        iteration = BlockIteration(self.operator, self._inverse, refuse)
        missing = iteration.run(residual, torch.zeros_like(size), _PROBE_STEPS).x
        return replace(solution, residual_norm=size, error_directions=missing[None], error_known=True)

    def pairwise(self, pairing: Pairing, gradients: ExampleGradients, refine: int = 0) -> PairScores:
        """By a contraction of factored gradients, layer by layer."""
        return self._pairs.scores(pairing, gradients)

    def quadratic(self, pairing: Pairing, index: Int[Tensor, " k"]) -> OwnScores:
        return self._pairs.self_scores(pairing, index)

    def plan(self, pairing: Pairing, gradients: ExampleGradients) -> Plan:
        return self._pairs.plan(pairing, gradients)

    def spectrum(self) -> Spectrum | None:
        """Of the approximation."""
        if self.curvature is None:
            return None
        smallest = min(float(values.min()) for values in self.curvature.eigenvalues)
        traces = sum(self.curvature.traces().values())
        return Spectrum(smallest, self.curvature.largest, 0.0, 0.0, traces, 0)

    def coverage(self) -> list[Coverage]:
        return self.layers.coverage()

    def as_preconditioner(self) -> LinearOperator:
        return self._inverse


def _count_rules(layers: LayerGradients) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in layers.coverage():
        counts[row.rule] = counts.get(row.rule, 0) + 1
    return counts
