"""From a curvature's name to the operator `C` of an objective, its regulariser's curvature included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.hessian import HessianOperator
from wherefrom.curvature.metrics import (
    EmpiricalFisherMetric,
    ExactFisherMetric,
    LossHessianMetric,
    OutputMetric,
    SampledFisherMetric,
)
from wherefrom.gradients import GradientEngine, HvpMode, check_loss, check_regulariser
from wherefrom.linalg import LinearOperator
from wherefrom.names import resolve_name
from wherefrom.store import check_run_directory

CURVATURES = ("auto", "hessian", "ggn", "fisher", "sampled_fisher", "empirical_fisher")
_ALIASES = {"gauss_newton": "ggn", "generalized_gauss_newton": "ggn", "generalised_gauss_newton": "ggn"}


@dataclass(frozen=True)
class Curvature:
    """The operator in use and what is to be said of it.

    Attributes:
        operator: `C` without damping: the data term plus `∇²R`.
        data: the data term alone.
        name: `"hessian"`, `"ggn"`, `"fisher"`, `"sampled_fisher"` or `"empirical_fisher"`.
        reason: why this one, in one sentence.
        is_hessian: whether `C` equals the Hessian of the objective, not an approximation of it.
    """

    operator: LinearOperator
    data: LinearOperator
    name: str
    reason: str
    is_hessian: bool
    settings: dict[str, Any]


def choose_curvature(
    engine: GradientEngine,
    name: str = "auto",
    *,
    hvp_mode: HvpMode | Literal["auto"] = "auto",
    fisher_draws: int = 1,
    seed: int = 0,
    run_dir: str | Path | None = None,
) -> Curvature:
    """The curvature of the objective (mean loss + regulariser) at `θ̂`.

    Args:
        engine: of the objective.
        name: one of `CURVATURES`, whatever its case. `"auto"` takes the Hessian where outputs are affine in
            the parameters and the loss is convex (there it equals the GGN and is positive semi-definite), and
            the GGN otherwise: it stays positive semi-definite away from a minimum (Bae et al. 2022, §4).
        hvp_mode: order of differentiation for the Hessian.
        fisher_draws: labels drawn per example for `"sampled_fisher"`.
        seed: of those draws.
        run_dir: keeps what is gathered of it for solvers that treat layers apart (`KroneckerStore`).

    Raises:
        InputError: an unknown name.
        StoreError: the run directory holds something else.
        UnsupportedError: a loss for which this curvature does not exist, or a model, loss or regulariser
            whose derivatives torch returns wrong.
    """
    if run_dir is not None:
        check_run_directory(run_dir)
    name = resolve_name("curvature", name, CURVATURES, aliases=_ALIASES)
    engine.check_derivatives()
    objective = engine.objective
    loss = objective.loss
    affine = engine.affine
    if name in ("auto", "hessian") and affine:
        reason = (
            "outputs are affine in the parameters, so Hessian and Gauss-Newton coincide"
            if loss.convex
            else "outputs are affine in the parameters"
        )
        data: LinearOperator = GaussNewtonOperator(engine, LossHessianMetric(loss), run_dir)
        chosen, is_hessian = "hessian", True
    elif name == "hessian":
        check_loss(engine.probe, second=True)
        hessian = HessianOperator(engine, hvp_mode)
        data, chosen, is_hessian = hessian, "hessian", True
        reason = f"as asked; products by {hessian.mode}"
    else:
        metric = _metric(name, engine, fisher_draws, seed)
        data, chosen, is_hessian = GaussNewtonOperator(engine, metric, run_dir), metric.name, False
        reason = "as asked"
        if name == "auto":
            reason = (
                "positive semi-definite also where the network is not at a minimum"
                if loss.convex
                else "without the network's own curvature; the loss is not declared convex: maybe indefinite"
            )
    if isinstance(data, GaussNewtonOperator) and isinstance(data.metric, LossHessianMetric):
        check_loss(engine.probe, second=True)
    check_regulariser(objective)
    operator = data + objective.regulariser.hessian()
    return Curvature(
        operator, data, chosen, reason, is_hessian, {"curvature": chosen, **objective.regulariser.settings()}
    )


def _metric(name: str, engine: GradientEngine, draws: int, seed: int) -> OutputMetric:
    loss = engine.objective.loss
    if name == "fisher":
        return ExactFisherMetric(loss)
    if name == "sampled_fisher":
        return SampledFisherMetric(loss, draws, seed)
    if name == "empirical_fisher":
        return EmpiricalFisherMetric(loss)
    return LossHessianMetric(loss)
