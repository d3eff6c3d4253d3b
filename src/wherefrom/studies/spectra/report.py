"""The geometry report: spectrum, layers, class means, the Hessian's parts and a verdict, of one fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from wherefrom.arguments import number, whole
from wherefrom.influence import Fit, MinimumCheck
from wherefrom.linalg import (
    Eigenpairs,
    Estimate,
    SpectralDensity,
    estimate_trace,
    extreme_eigenpairs,
    spectral_density,
)
from wherefrom.progress import progress_bar, progress_display
from wherefrom.studies.spectra.class_means import ClassMeans, class_means
from wherefrom.studies.spectra.groups import layer_groups, named_groups
from wherefrom.studies.spectra.layers import (
    TRACE_PRODUCTS,
    LayerCurvature,
    effective_dimension,
    layer_curvatures,
)
from wherefrom.studies.spectra.residual import HessianSplit, split_hessian
from wherefrom.studies.spectra.verdict import GeometryVerdict, judge
from wherefrom.task import class_numbers


@dataclass(frozen=True)
class SpectrumReport:
    """The shape of the loss at the trained parameters.

    Attributes:
        curvature: name of the matrix `C` that was looked at, the regulariser's curvature included.
        n, p: training examples and parameters.
        top: its leading eigenpairs.
        density: its spectral density.
        trace: `tr C`.
        log_determinant: of `C + λI`; `None` where that is not positive definite beyond rounding.
        effective_dimension: directions that the data determine; see `effective_dimension`.
        damping: the `λ` of both: the fit's, the largest one where layers differ.
        layers: one row per layer or group.
        classes: the class means' share of the top eigenvectors, or why there is none.
        hessian: `H = G + R`, or why there is no Hessian.
        minimum: of the fit.
        learning_rate: as given.
        verdict: whether influence can be trusted here, and the damping that follows.
    """

    curvature: str
    n: int
    p: int
    top: Eigenpairs
    density: SpectralDensity
    trace: Estimate
    log_determinant: Estimate | None
    effective_dimension: Estimate | None
    damping: float
    layers: list[LayerCurvature]
    classes: ClassMeans | str
    hessian: HessianSplit | str
    minimum: MinimumCheck
    learning_rate: float | None
    verdict: GeometryVerdict


def spectrum_report(
    fitted: Fit,
    *,
    top: int = 10,
    steps: int = 60,
    starts: int = 4,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
) -> SpectrumReport:
    """Look at the curvature of a fit.

    Args:
        fitted: of the objective; its curvature is looked at, its damping judged.
        top: leading eigenpairs.
        steps, starts: of the stochastic Lanczos quadrature of the whole matrix; each layer takes a third of
            the steps.
        groups: parameter groups by name, each a pattern or several; `None`: one per layer.
        learning_rate: of the gradient descent that trained the model, to be compared with the sharpness.
        seed: of everything random; the fit's own when `None`.

    Raises:
        InputError: `top`, `steps` or `starts` below 1 (2 for `starts`), a learning rate that is not a number
            above 0, or a group that matches nothing.

    Cost, in products with the curvature: about `steps · starts · (1 + layers / 3) + 96 + 48 · layers` and
    what `top` needs, and up to 600 with the Hessian.
    """
    for name, value, least in (("top", top, 1), ("steps", steps, 2), ("starts", starts, 2)):
        whole(name, value, least)
    seed = fitted.options.seed if seed is None else whole("seed", seed)
    if learning_rate is not None:
        number("learning_rate", learning_rate, above=0, expected="None or a finite number above 0")
    objective, operator = fitted.objective, fitted.curvature.operator
    parameters = objective.parameters
    chosen = layer_groups(parameters) if groups is None else named_groups(parameters, groups)
    damping = fitted.damping.value
    with progress_display(fitted.options.progress), progress_bar("shape of the loss", 5) as bar:
        pairs = extreme_eigenpairs(operator, min(top, objective.p), tolerance=1e-4, seed=seed)
        bar.advance(1)
        density = spectral_density(operator, steps=steps, starts=starts, seed=seed)
        bar.advance(1)
        layers = layer_curvatures(
            operator, chosen, pairs, damping, steps=max(2, steps // 3), starts=starts, seed=seed
        )
        bar.advance(1)
        classes = _classes(fitted, pairs)
        bar.advance(1)
        split = split_hessian(fitted.engine, hvp_mode=fitted.options.hvp_mode, seed=seed)
        bar.advance(1)
    return SpectrumReport(
        curvature=fitted.curvature.name,
        n=objective.n,
        p=objective.p,
        top=pairs,
        density=density,
        trace=estimate_trace(operator, products=2 * TRACE_PRODUCTS, seed=seed),
        log_determinant=density.log_determinant(damping)
        if damping + density.smallest > density.rounding
        else None,
        effective_dimension=effective_dimension(density, operator, damping),
        damping=damping,
        layers=layers,
        classes=classes,
        hessian=split,
        minimum=fitted.minimum,
        learning_rate=learning_rate,
        verdict=judge(
            fitted.minimum,
            split,
            damping,
            fitted.damping.reason,
            curvature_is_hessian=fitted.curvature.is_hessian,
            learning_rate=learning_rate,
        ),
    )


def _classes(fitted: Fit, top: Eigenpairs) -> ClassMeans | str:
    labels = class_numbers(fitted.objective, fitted.objective.examples)
    if labels is None or bool((labels < 0).any()):
        return "the targets are not one class per example"
    return class_means(fitted.engine, torch.as_tensor(labels), top)
