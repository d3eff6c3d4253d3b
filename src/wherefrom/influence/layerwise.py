"""Scores and self-influence where each layer is inverted apart: factored gradients on both sides, contracted
by a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.gradients import Coverage, ExampleGradients
from wherefrom.influence.damping_effect import damping_share
from wherefrom.influence.fit import Fit
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers import PreparedBlockDiagonal, PreparedBlocks
from wherefrom.solvers.cg_iteration import BlockIteration
from wherefrom.solvers.contraction import GradientSource, Plan, contract, plan_contraction
from wherefrom.solvers.repair import measured

# Training examples whose scores are compared to estimate the distance to the full curvature's answer.
_PROBED_TRAIN = 256
# Two steps find the size of what is missing to a tenth or so; one without a line search may be off by orders.
_PROBE_STEPS = 2
# The approximation's error grows with the score: on digit readers (softmax, dense, conv) four in five
# errors are within a factor of five of `distance |score|`, one in three of `distance` times a typical score.
# Scores near zero are off by this share of what a typical one is, at least.
_LEAST = 0.02
# Rounding, in units of the dtype's, relative to a query's scores: sums over layers of sums over entries.
_ROUNDING = 64


@dataclass(frozen=True)
class LayerwiseScores:
    """Scores with what is known of their errors.

    Attributes:
        values: `(q, n)`.
        error: expected error of each score, `(q, n)`: mostly `distance |score|`; infinite where the
            distance was not probed.
        relative_residual: of the probed queries on average, against the full damped curvature; NaN without
            probes.
        distance: expected relative error of a query's scores against the full curvature's answer.
        damping_share: see `damping_effect.damping_share`, of the probed queries; `None` without probes.
        plan: that was carried out.
    """

    values: Float[Tensor, "q n"]
    error: Float[Tensor, "q n"]
    relative_residual: float
    distance: float
    damping_share: float | None
    plan: Plan


def layerwise_plan(fitted: Fit, gradients: ExampleGradients) -> Plan:
    """The plan for these queries.

    Raises:
        UnsupportedError: the solver in use does not treat layers apart.
    """
    prepared = _prepared(fitted)
    queries, train = _sources(fitted, gradients)
    return plan_contraction(prepared.inverses, queries, train, rtol=prepared.settings.score_rtol)


def layer_coverage(fitted: Fit) -> list[Coverage]:
    """How every block of parameters is attributed.

    Raises:
        UnsupportedError: the solver in use does not treat layers apart.
    """
    if isinstance(fitted.prepared, PreparedBlockDiagonal):
        return fitted.prepared.layers.coverage()
    return _prepared(fitted).layers.coverage()


def layerwise_scores(fitted: Fit, gradients: ExampleGradients) -> LayerwiseScores:
    """`∇mᵀ M⁻¹ g_i` with `M⁻¹` the block inverse of the fitted solver."""
    prepared = _prepared(fitted)
    queries, train = _sources(fitted, gradients)
    plan = plan_contraction(prepared.inverses, queries, train, rtol=prepared.settings.score_rtol)
    values = torch.empty(len(gradients), fitted.objective.n, dtype=fitted.objective.dtype)

    def put(these: slice, where: slice, scores: Tensor) -> None:
        values[these, where] = scores.T.cpu()

    with memory_errors("scoring", "Lower memory= or pass fewer queries at once."):
        contract(plan, prepared.inverses, queries, train, progress=fitted.options.progress, on_batch=put)
    distance, residual, share = probe_distance(fitted, gradients)
    estimate = _estimate(values, distance, plan.measured_error)
    return LayerwiseScores(values, estimate, residual, distance, share, plan)


def _estimate(values: Float[Tensor, "q n"], distance: float, contraction: float) -> Float[Tensor, "q n"]:
    """Expected errors: that of the approximation in proportion to each score, that of the contraction and
    rounding to a query's typical one."""
    if not math.isfinite(distance):
        return torch.full_like(values, math.inf)
    typical = torch.stack([row.double().norm() for row in values])[:, None] / values.shape[1] ** 0.5
    typical = typical.to(values.dtype)
    even = math.hypot(_LEAST * distance, contraction, torch.finfo(values.dtype).eps * _ROUNDING)
    return torch.hypot(distance * values.abs(), even * typical)


def layerwise_self_scores(fitted: Fit, index: Tensor) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """`g_iᵀ M⁻¹ g_i` of these training examples, from squares in the eigenbasis, and the expected errors."""
    prepared = _prepared(fitted)
    source = _sources(fitted, fitted.train_gradients)[1]
    layers = prepared.layers
    size = layers.batch_size()
    values = []
    with progress_bar("self-influence", len(index), enabled=fitted.options.progress) as bar:
        for part in index.split(size):
            capture = layers.capture(source.examples, part.to(fitted.objective.device))
            total = torch.zeros(len(part), dtype=torch.float64, device=fitted.objective.device)
            for inverse, form in zip(prepared.inverses, source.forms(capture)):
                rotated = form.rotated(inverse.basis.left, inverse.basis.right)
                total += rotated.weighted_squares(inverse.weights)[0]
            values.append(total.cpu())
            bar.advance(len(part))
    made = torch.cat(values).to(fitted.objective.dtype)
    distance = probe_distance(fitted, fitted.train_gradients)[0]
    return made, made.abs() * math.hypot(distance, _ROUNDING * torch.finfo(made.dtype).eps)


def probe_distance(fitted: Fit, gradients: ExampleGradients) -> tuple[float, float, float | None]:
    """How far scores are from those of the full damped curvature `C_λ`, relative to their size, and the
    relative residual, on a few queries.

    What `x = M⁻¹ v` misses, `C_λ⁻¹ (v − C_λ x)`, is approximated by a few steps of conjugate gradients
    preconditioned by `M`; its scores on a sample of training examples are compared with those of `x`.

    Returns:
        `(distance, residual, share)`, the last that of scores decided by damping; infinite, NaN and `None`
        without probes.
    """
    prepared = _prepared(fitted)
    count = min(prepared.settings.probes, len(gradients))
    if count == 0:
        return math.inf, math.nan, None
    device = fitted.objective.device
    rhs = gradients.rows(torch.tensor(gradients.examples.spread(count), device=device)).T
    inverse = prepared.as_preconditioner()
    x = inverse.matmat(rhs)
    residual = rhs - prepared.operator.matmat(x)
    iteration = BlockIteration(prepared.operator, inverse, partial(measured, prepared.operator, seed=0))
    missing = iteration.run(residual, torch.zeros_like(residual[0]), _PROBE_STEPS).x
    train = fitted.train_gradients
    index = torch.tensor(train.examples.spread(_PROBED_TRAIN), device=device)
    own, lost = 0.0, 0.0
    for part in index.split(fitted.engine.rows_per_batch()):
        rows = train.rows(part)
        own += float((rows @ x).double().square().sum())
        lost += float((rows @ missing).double().square().sum())
    sizes = rhs.norm(dim=0)
    relative = residual.norm(dim=0)[sizes > 0] / sizes[sizes > 0]
    mean = float(relative.mean()) if len(relative) else 0.0
    distance = (lost / own) ** 0.5 if own > 0 else 0.0
    return distance, mean, damping_share(rhs, x, fitted.damping)


def _prepared(fitted: Fit) -> PreparedBlocks:
    if isinstance(fitted.prepared, PreparedBlockDiagonal):
        raise UnsupportedError(
            f"solver={fitted.solver.name!r} multiplies solutions with explicit gradients, so there is no "
            "plan to choose; coverage() says how its layers are attributed. Use solver=EKFAC() for a plan."
        )
    if not isinstance(fitted.prepared, PreparedBlocks):
        raise UnsupportedError(
            f"solver={fitted.solver.name!r} works on all parameters at once, so there is no plan by layers "
            "and no coverage table: every studied parameter is covered by autograd. Use solver=EKFAC() for "
            "these."
        )
    return fitted.prepared


def _sources(fitted: Fit, gradients: ExampleGradients) -> tuple[GradientSource, GradientSource]:
    layers = _prepared(fitted).layers
    train = fitted.train_gradients
    return (
        GradientSource(layers, gradients.examples, gradients.measure),
        GradientSource(layers, train.examples, train.measure),
    )
