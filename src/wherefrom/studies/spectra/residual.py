"""`H = G + R`: the Hessian of the objective, its Gauss-Newton part, and the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wherefrom.arguments import whole
from wherefrom.curvature import HessianOperator, choose_curvature
from wherefrom.errors import UnsupportedError
from wherefrom.gradients import GradientEngine, HvpMode
from wherefrom.linalg import Estimate, LinearOperator, extreme_eigenpairs


@dataclass(frozen=True)
class HessianSplit:
    """The Hessian `H` of the objective beside its Gauss-Newton part `G`, both without the regulariser.

    Attributes:
        largest: `λ_max(H)`, the sharpness, with the regulariser's curvature.
        smallest: `λ_min(H)`, with the regulariser's curvature.
        largest_residual, smallest_residual: an eigenvalue lies within this distance of either.
        gauss_newton_norm: `‖G‖_F`, estimated.
        rest_norm: `‖R‖_F`, estimated with the same probes.
        rest_share: `‖R‖_F / ‖G‖_F`.
        rest_trace: `tr R`.
    """

    largest: float
    smallest: float
    largest_residual: float
    smallest_residual: float
    gauss_newton_norm: float
    rest_norm: float
    rest_share: float
    rest_trace: Estimate

    @property
    def negative_share(self) -> float:
        """`−λ_min / λ_max` where `λ_min < 0`, else 0."""
        if self.smallest >= 0:
            return 0.0
        return -self.smallest / self.largest if self.largest > 0 else math.inf


def split_hessian(
    engine: GradientEngine,
    *,
    probes: int = 16,
    hvp_mode: HvpMode | str = "auto",
    tolerance: float = 2e-4,
    max_products: int = 300,
    seed: int = 0,
) -> HessianSplit | str:
    """`H`, `G` and `R = H − G` of the objective at `θ̂`, or why the Hessian does not exist.

    For outputs affine in the parameters `R = 0` exactly. Norms are `‖A‖_F² = E ‖A z‖²` over random signs
    `z`, the same for `G` and `R`.

    Args:
        engine: of the objective.
        probes: random vectors.
        hvp_mode: order of differentiation of Hessian products.
        tolerance: of the residuals of the extreme eigenvalues, relative to the largest.
        max_products: spent on each end of the spectrum.
        seed: of probes and starts.

    Raises:
        InputError: fewer than two probes, which leave no standard error.

    Source: Schraudolph 2002; Sagun et al. 2018, "Empirical analysis of the Hessian of over-parametrized
    neural networks", §2.
    """
    whole("probes", probes, 2, expected="a whole number of at least 2, for a standard error")
    objective = engine.objective
    gauss_newton = choose_curvature(engine, "ggn").data
    if engine.affine:
        hessian: LinearOperator = gauss_newton
    else:
        try:
            hessian = HessianOperator(engine, hvp_mode)  # type: ignore[arg-type]
        except UnsupportedError as error:
            return str(error)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (probes, objective.p), generator=generator) * 2 - 1
    z = signs.to(dtype=objective.dtype, device=objective.device).T
    g = gauss_newton.matmat(z).double()
    rest = torch.zeros_like(g) if hessian is gauss_newton else hessian.matmat(z).double() - g
    traces = (z.double() * rest).sum(0)
    spread = float(traces.std() / math.sqrt(probes))
    g_norm, rest_norm = (float(part.pow(2).sum(0).mean().sqrt()) for part in (g, rest))
    full = hessian + objective.regulariser.hessian()
    high, low = (
        extreme_eigenpairs(full, 1, which=end, tolerance=tolerance, max_products=max_products, seed=seed)
        for end in ("largest", "smallest")
    )
    return HessianSplit(
        float(high.values[0]),
        float(low.values[0]),
        float(high.residuals[0]),
        float(low.residuals[0]),
        g_norm,
        rest_norm,
        rest_norm / g_norm if g_norm > 0 else math.inf,
        Estimate(float(traces.mean()), spread, 2 * probes),
    )
