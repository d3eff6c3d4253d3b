"""hessian-eigenthings: Lanczos with full reorthogonalisation, Hutch++ and Hutchinson, Lanczos quadrature."""

from __future__ import annotations

from typing import Any

import spectral
import torch
from hessian_eigenthings import HessianOperator, lanczos, spectral_density, trace
from hessian_eigenthings.loss_fns import supervised_loss
from problems import Problem


class _Counted(HessianOperator):
    products = 0

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        self.products += 1
        return super().matvec(v)


def eigenvalues(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    hessian = _hessian(problem)
    found = lanczos(
        hessian,
        k=spectral.EIGENVALUES,
        max_iter=settings["steps"],
        reorthogonalize=True,
        which="LA",
        seed=seed,
    )
    return found.eigenvalues, hessian.products


def hutchpp(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace("hutch++", problem, settings, seed)


def hutchinson(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    return _trace("hutchinson", problem, settings, seed)


def density(problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    hessian = _hessian(problem)
    found = spectral_density(
        hessian, num_runs=settings["starts"], lanczos_steps=settings["steps"], seed=1000 * seed
    )
    return spectral.quadrature(found.raw_eigenvalues.nan_to_num(), found.raw_weights), hessian.products


def _trace(method: Any, problem: Problem, settings: dict[str, Any], seed: int) -> spectral.Answer:
    hessian = _hessian(problem)
    found = trace(hessian, num_matvecs=settings["products"], method=method, seed=seed)
    return found.estimate, hessian.products


def _hessian(problem: Problem) -> _Counted:
    return _Counted(
        problem.model, [(problem.X, problem.y)], supervised_loss(torch.nn.functional.cross_entropy)
    )


if __name__ == "__main__":
    methods = {"eigenvalues": eigenvalues, "hutch++": hutchpp, "hutchinson": hutchinson, "density": density}
    spectral.main(methods, "hessian-eigenthings")
