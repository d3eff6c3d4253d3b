"""curvlinops: its Hessian under SciPy's `eigsh`, as its documentation does it; its own trace estimators and
Lanczos quadrature. The quadrature's nodes are taken before it smooths them and without the search for the
ends of the spectrum that the smoothing needs: less work than its public function does."""

from __future__ import annotations

from typing import Any

import numpy as np
import spectral
import torch
from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace, xtrace
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from problems import Problem
from scipy.sparse.linalg import eigsh


class _Counted(HessianLinearOperator):
    products = 0

    def _matmat_batch(self, X: Any, y: Any, M: list[torch.Tensor]) -> list[torch.Tensor]:
        self.products += M[0].shape[-1]
        return super()._matmat_batch(X, y, M)


def eigenvalues(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    hessian = _hessian(problem)
    start = np.random.default_rng(seed).normal(size=problem.parameter_count).astype(np.float32)
    values, _ = eigsh(
        hessian.to_scipy(),
        k=spectral.EIGENVALUES,
        which="LA",
        tol=settings["tolerance"],
        ncv=settings["basis"],
        v0=start,
    )
    return values, hessian.products


def xtrace_(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace(xtrace, problem, settings)


def hutchpp(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace(hutchpp_trace, problem, settings)


def hutchinson(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace(hutchinson_trace, problem, settings)


def density(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    hessian = _hessian(problem)
    runs = [fast_lanczos(hessian, settings["steps"]) for _ in range(settings["starts"])]
    nodes, weights = [values.numpy() for values, _ in runs], [vectors[0].numpy() ** 2 for _, vectors in runs]
    return spectral.quadrature(nodes, weights), hessian.products


def _trace(estimator: Any, problem: Problem, settings: dict[str, Any]) -> spectral.Answer:
    hessian = _hessian(problem)
    return float(estimator(hessian, settings["products"])), hessian.products


def _hessian(problem: Problem) -> _Counted:
    return _Counted(
        problem.model,
        torch.nn.CrossEntropyLoss(),
        list(problem.model.parameters()),
        [(problem.X, problem.y)],
        check_deterministic=False,
    )


if __name__ == "__main__":
    methods = {
        "eigenvalues": eigenvalues,
        "xtrace": xtrace_,
        "hutch++": hutchpp,
        "hutchinson": hutchinson,
        "density": density,
    }
    spectral.main(methods, "curvlinops-for-pytorch")
