"""What a monitor records, each quantity as plain numbers from an objective at the present parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wherefrom.curvature import choose_curvature
from wherefrom.gradients import ExampleGradients, GradientEngine
from wherefrom.linalg import lanczos_spectrum
from wherefrom.studies.geometry.bounds import gradient_bounds
from wherefrom.studies.geometry.complexity import geometric_complexity
from wherefrom.task import Examples, Objective

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Settings:
    """How a monitor measures; see `Monitor`."""

    curvature: str
    scalar: Any
    probes: int | None
    seed: int


def loss(objective: Objective, settings: Settings, held_out: Examples | None) -> dict[str, Any]:
    """`train` and, if given, `held_out`: mean losses without a regulariser."""
    found = {"train": _mean_loss(objective, objective.examples)}
    if held_out is not None:
        found["held_out"] = _mean_loss(objective, held_out)
    return found


def gradient(objective: Objective, settings: Settings, held_out: Examples | None) -> dict[str, Any]:
    """`squared_norm`, `‖∇_θ L‖²` of the mean loss, and mean and quantiles of the examples' `‖∇_θ ℓ_i‖`."""
    engine = GradientEngine(objective)
    rows = ExampleGradients(engine, objective.examples, objective.loss)
    total = torch.zeros(objective.p, dtype=torch.float64, device=objective.device)
    norms = []
    size = engine.rows_per_batch()
    for start in range(0, objective.n, size):
        part = rows.rows(slice(start, min(start + size, objective.n))).double()
        total += part.sum(0)
        norms.append(part.norm(dim=1))
    each = torch.cat(norms)
    quantiles = each.quantile(torch.tensor(QUANTILES, dtype=torch.float64, device=each.device))
    return {
        "squared_norm": float((total / objective.n).square().sum()),
        "norm_mean": float(each.mean()),
        **{f"norm_{q}": float(value) for q, value in zip(QUANTILES, quantiles)},
    }


def complexity(objective: Objective, settings: Settings, held_out: Examples | None) -> dict[str, Any]:
    """`value`: geometric complexity, the mean of `‖∂f(x_i)/∂x_i‖_F²` over the examples."""
    return {"value": geometric_complexity(objective, probes=settings.probes, seed=settings.seed).value}


def sharpness(objective: Objective, settings: Settings, held_out: Examples | None) -> dict[str, Any]:
    """`largest` eigenvalue of the curvature of the mean loss by Lanczos, a lower bound, with its `residual`:
    an eigenvalue lies within this distance."""
    chosen = choose_curvature(
        GradientEngine(objective), settings.curvature, hvp_mode="reverse_over_reverse", seed=settings.seed
    )
    spectrum = lanczos_spectrum(chosen.operator, steps=20, starts=1, seed=settings.seed)
    return {"largest": spectrum.largest, "residual": spectrum.largest_residual}


def bounds(objective: Objective, settings: Settings, held_out: Examples | None) -> dict[str, Any]:
    """Means of both sides of `‖∇_x f‖² Σ_t term_t ≤ ‖∇_θ f‖²`, and the median of their ratio."""
    found = gradient_bounds(objective, scalar=settings.scalar, iterations=20, seed=settings.seed)
    return {
        "left": float(found.left.mean()),
        "right": float(found.right.mean()),
        "ratio": float(found.ratio.nanmedian()),
    }


def weights(objective: Objective, settings: Settings, held_out: Examples | None) -> dict[str, Any]:
    """`‖W‖₂` of every linear and convolutional layer, by its name.

    A convolution counts by its kernel as a matrix `(out, in · positions)`, not by the map it stands for.
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {
        name or "model": float(torch.linalg.matrix_norm(module.weight.detach().double().flatten(1), ord=2))
        for name, module in objective.model.named_modules()
        if isinstance(module, layers)
    }


Measure = Callable[[Objective, Settings, "Examples | None"], dict[str, Any]]
MEASURES: Mapping[str, Measure] = {
    "loss": loss,
    "gradient": gradient,
    "complexity": complexity,
    "sharpness": sharpness,
    "bounds": bounds,
    "weights": weights,
}


def _mean_loss(objective: Objective, examples: Examples) -> float:
    return float(objective.measured(examples, objective.loss).double().mean())
