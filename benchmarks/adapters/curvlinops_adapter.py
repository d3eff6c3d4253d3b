"""curvlinops: curvature operators and their CG inverse; gradients and scores are ``torch.func`` around them.

``scipy_cg`` solves one right-hand side at a time with SciPy's CG on the operator: how torch-influence works,
which PyPI does not carry.
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
import torch
from curvlinops import CGInverseLinearOperator, GGNLinearOperator, HessianLinearOperator
from curvlinops.examples import IdentityLinearOperator
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg as scipy_solve


def dense(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    with stages.stage("fit"):
        matrix = _curvature(task, settings) @ torch.eye(task.parameter_count)
        matrix.diagonal().add_(task.ridge)
        factor = torch.linalg.cholesky(matrix)
    with stages.stage("solve"):
        solutions = torch.cholesky_solve(common.query_gradients(task).T, factor).T
    with stages.stage("scores"):
        return common.dot_with_train(task, solutions)


def cg(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    with stages.stage("fit"):
        shapes = [tuple(p.shape) for p in task.model.parameters()]
        ridge = task.ridge * IdentityLinearOperator(shapes, torch.device("cpu"), torch.float32)
        inverse = CGInverseLinearOperator(
            _curvature(task, settings) + ridge, tolerance=settings["tolerance"], max_iter=500
        )
    with stages.stage("solve"):
        solutions = (inverse @ common.query_gradients(task).T).T
    with stages.stage("scores"):
        return common.dot_with_train(task, solutions)


def scipy_cg(task: common.Task, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
    with stages.stage("fit"):
        product, p = _curvature(task, settings).to_scipy(), task.parameter_count
        damped = LinearOperator((p, p), lambda v: product @ v + task.ridge * v, dtype=np.float32)
    with stages.stage("solve"):
        solved = [
            scipy_solve(damped, g, rtol=settings["tolerance"], atol=0.0, maxiter=500)
            for g in common.query_gradients(task).numpy()
        ]
        if any(status != 0 for _, status in solved):
            raise SystemExit("SciPy's CG did not converge in 500 iterations")
        solutions = torch.from_numpy(np.stack([x for x, _ in solved]).astype(np.float32))
    with stages.stage("scores"):
        return common.dot_with_train(task, solutions)


def _curvature(task: common.Task, settings: dict[str, Any]) -> HessianLinearOperator | GGNLinearOperator:
    kind = {"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}[settings["curvature"]]
    loss, params = torch.nn.CrossEntropyLoss(), list(task.model.parameters())
    return kind(task.model, loss, params, [(task.X, task.y)], check_deterministic=False)


if __name__ == "__main__":
    common.main({"dense": dense, "cg": cg, "scipy_cg": scipy_cg}, "curvlinops-for-pytorch")
