"""wherefrom: its Hessian operator, and what `wherefrom.linalg` finds out about it."""

from __future__ import annotations

from typing import Any

import spectral
import torch
from problems import Problem

import wherefrom
from wherefrom.curvature import HessianOperator
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import estimate_trace, extreme_eigenpairs, spectral_density
from wherefrom.task import Objective


def eigenvalues(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    found = extreme_eigenpairs(
        _hessian(problem, settings), spectral.EIGENVALUES, tolerance=settings["tolerance"], seed=seed
    )
    return found.values.numpy(), found.products


def xtrace(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace(problem, settings, seed, "xtrace")


def hutchpp(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace(problem, settings, seed, "hutch++")


def hutchinson(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace(problem, settings, seed, "hutchinson")


def density(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    found = spectral_density(
        _hessian(problem, settings), steps=settings["steps"], starts=settings["starts"], seed=seed
    )
    nodes = torch.cat([torch.as_tensor(part).flatten() for part in found.nodes])
    weights = torch.cat([torch.as_tensor(part).flatten() for part in found.weights])
    return spectral.quadrature(nodes, weights), found.products


def _trace(problem: Problem, settings: dict[str, Any], seed: int, method: Any) -> spectral.Answer:
    found = estimate_trace(
        _hessian(problem, settings), products=settings["products"], method=method, seed=seed
    )
    return found.value, found.products


def _hessian(problem: Problem, settings: dict[str, Any]) -> HessianOperator:
    objective = Objective(problem.model, (problem.X, problem.y), loss="cross_entropy")
    return HessianOperator(GradientEngine(objective), settings.get("mode", "auto"))


if __name__ == "__main__":
    methods = {
        "eigenvalues": eigenvalues,
        "xtrace": xtrace,
        "hutch++": hutchpp,
        "hutchinson": hutchinson,
        "density": density,
    }
    spectral.main(methods, "wherefrom", wherefrom.__version__)
