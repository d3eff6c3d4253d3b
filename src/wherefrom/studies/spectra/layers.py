"""Where the curvature lies: trace, sharpest direction and effective dimension of each layer's own block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from wherefrom.linalg import (
    Eigenpairs,
    Estimate,
    LinearOperator,
    RestrictedOperator,
    SpectralDensity,
    estimate_trace,
    spectral_density,
)

# For the trace: where eigenvalues decay, as those of networks do, XTrace knows it far better than the
# quadrature does.
TRACE_PRODUCTS = 48


@dataclass(frozen=True)
class LayerCurvature:
    """The diagonal block of a layer or a group of parameters.

    Attributes:
        name: of the layer or group.
        size: its parameters.
        trace: of the block.
        largest: its largest eigenvalue (a Ritz value: never above the true one).
        effective_dimension: of the block, see `effective_dimension`.
        top_share: which part of the whole matrix's top eigenvectors lies in these parameters:
            the mean of `‖v_B‖²` over them.
    """

    name: str
    size: int
    trace: Estimate
    largest: float
    effective_dimension: Estimate | None
    top_share: float


def effective_dimension(
    density: SpectralDensity, operator: LinearOperator, damping: float
) -> Estimate | None:
    """`tr (C − ρI)(C + λI)⁻¹`: how many directions the data determine rather than weight decay and damping.

    `ρ` is what is proven to lie below all eigenvalues: the weight decay `α` of a Gauss-Newton matrix, so that
    with `G = C − αI` it is `tr G (G + (α + λ)I)⁻¹`; zero where nothing is proven.

    Args:
        density: of `C`.
        operator: `C` itself, or the matrix it is a block of.
        damping: `λ`.

    Returns:
        `None` where `C + λI` is not positive definite beyond rounding, or `ρ + λ = 0`.

    Source: MacKay 1992, "Bayesian interpolation", §4 (the number of well-determined parameters).
    """
    floor = operator.lower_bound if math.isfinite(operator.lower_bound) else 0.0
    floor = max(floor, 0.0)
    if damping + density.smallest <= density.rounding or damping + floor <= 0:
        return None
    return density.integral(lambda values: (values - floor) / (values + damping))


def layer_curvatures(
    operator: LinearOperator,
    groups: Mapping[str, Tensor],
    top: Eigenpairs,
    damping: float,
    *,
    steps: int = 20,
    starts: int = 4,
    seed: int = 0,
) -> list[LayerCurvature]:
    """One row per group, by a stochastic Lanczos quadrature on its block of `operator`.

    Args:
        operator: the whole matrix.
        groups: indices of parameters by name.
        top: leading eigenpairs of the whole matrix.
        damping: at which the effective dimension is taken.
        steps, starts: of each quadrature. Cost: `steps · starts + 48` products a group.
        seed: of the random starts.
    """
    found = []
    for name, index in groups.items():
        block = RestrictedOperator(operator, index)
        density = spectral_density(block, steps=steps, starts=starts, seed=seed)
        trace = estimate_trace(block, products=TRACE_PRODUCTS, seed=seed)
        dimension = effective_dimension(density, operator, damping)
        share = float(top.vectors[index].double().pow(2).sum(0).mean())
        found.append(LayerCurvature(name, len(index), trace, density.largest, dimension, share))
    return found
