"""PyHessian: power iteration with deflation, Hutchinson's trace, Lanczos quadrature.

Its data go in as one batch, for which it keeps the gradient's graph between products: its fast way. Its
trace stops when the running mean changes little, which says nothing of the error, so that rule is turned off
(`tol=0`). Its density calls `torch.eig`, which torch removed in 1.13: the adapter supplies it, or there would
be no density to measure.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import spectral
import torch
from problems import Problem

# The package's attribute of this name is the class.
library = importlib.import_module("pyhessian.hessian")
_product = library.hessian_vector_product
_count = [0]


def _counted(*arguments: Any) -> Any:
    _count[0] += 1
    return _product(*arguments)


def _eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What `torch.eig` returned for a symmetric matrix: `(values, zeros)` in columns, and the vectors."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


library.hessian_vector_product = _counted
torch.eig = _eig


def eigenvalues(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    values, _ = _hessian(problem).eigenvalues(
        maxIter=settings["iterations"], tol=settings["tolerance"], top_n=spectral.EIGENVALUES
    )
    return values, _count[0]


def hutchinson(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return np.mean(_hessian(problem).trace(maxIter=settings["products"], tol=0.0)), _count[0]


def density(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    nodes, weights = _hessian(problem).density(iter=settings["steps"], n_v=settings["starts"])
    return spectral.quadrature(nodes, weights), _count[0]


def _hessian(problem: Problem) -> Any:
    _count[0] = 0
    problem.model.zero_grad()
    criterion = torch.nn.CrossEntropyLoss()
    return library.hessian(problem.model, criterion, data=(problem.X, problem.y), cuda=False)


if __name__ == "__main__":
    methods = {"eigenvalues": eigenvalues, "hutchinson": hutchinson, "density": density}
    spectral.main(methods, "pyhessian")
