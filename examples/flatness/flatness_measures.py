"""Flatness of a trained network: the Hessian's trace and top eigenvalue, effective dimension, complexity."""

from __future__ import annotations

from typing import Any

import torch
from small_images import ImageSet

from wherefrom.curvature import choose_curvature
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import estimate_trace, extreme_eigenpairs, spectral_density
from wherefrom.studies.geometry import jacobian_penalty
from wherefrom.task import Objective

DAMPING = 1e-3  # of the effective dimension
MEASURES = {
    "trace": "trace of the Hessian",
    "largest": "λ_max of the Hessian",
    "dimension": f"effective dimension at {DAMPING:g}",
    "complexity": "geometric complexity",
}


def flatness(model: torch.nn.Module, images: ImageSet) -> dict[str, Any]:
    """The four measures on the training set, those with random vectors with their standard errors.

    The effective dimension is `tr G(G + γI)⁻¹` of the Gauss-Newton matrix `G`: the Hessian has negative
    eigenvalues at these points, where `(H + γI)⁻¹` would mean nothing. Geometric complexity is
    `(1/n) Σ ‖∂f(x_i)/∂x_i‖_F²` of the logits, exactly.

    Args:
        model: in double precision.
    """
    x, y = images.train[0].double(), images.train[1]
    engine = GradientEngine(Objective(model, (x, y), loss="cross_entropy"))
    hessian = choose_curvature(engine, "hessian", hvp_mode="reverse_over_reverse").data
    gauss_newton = choose_curvature(engine, "ggn").data
    trace = estimate_trace(hessian, products=96, method="xtrace")
    top = extreme_eigenpairs(hessian, 1, tolerance=1e-3, max_products=200)
    dimension = spectral_density(gauss_newton, steps=40, starts=4).effective_dimension(DAMPING)
    return {
        "trace": trace.value,
        "trace_error": trace.standard_error,
        "largest": float(top.values[0]),
        "largest_error": float(top.residuals[0]),
        "dimension": dimension.value,
        "dimension_error": dimension.standard_error,
        "complexity": float(jacobian_penalty(model, x, probes=None).detach()),
    }
