"""Binary logistic regression without bias, trained to its optimum in float64, on dense or sparse inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class Fit:
    """An optimum: weights (d,), the norm of ∇J there, Newton steps taken."""

    weights: np.ndarray
    gradient_norm: float
    iterations: int


def fit(
    x: np.ndarray, y: np.ndarray, alpha: float, *, tolerance: float = 1e-12, max_iterations: int = 50
) -> Fit:
    """Minimise `J(w) = (1/n) Σ_j log(1 + exp(−y_j wᵀx_j)) + (α/2)‖w‖²` for y (n,) of −1 and +1.

    Raises:
        ArithmeticError: the gradient norm did not fall below `tolerance`.
    """
    n, d = x.shape
    weights = np.zeros(d)
    for iteration in range(max_iterations + 1):
        misfit = expit(-y * (x @ weights))
        gradient = -(x.T @ (misfit * y)) / n + alpha * weights
        norm = float(np.linalg.norm(gradient))
        if norm <= tolerance:
            return Fit(weights, norm, iteration)
        hessian = (x.T * (misfit * (1.0 - misfit) / n)) @ x + alpha * np.eye(d)
        weights = weights - scipy.linalg.solve(hessian, gradient, assume_a="pos")
    raise ArithmeticError(
        f"training stopped at ‖∇J‖ = {norm:.2e} after {max_iterations} Newton steps, above the tolerance "
        f"{tolerance:.0e}"
    )


def fit_sparse(
    x: scipy.sparse.csr_matrix,
    y: np.ndarray,
    alpha: float,
    *,
    start: np.ndarray | None = None,
    tolerance: float = 1e-7,
) -> Fit:
    """The same optimum by scikit-learn's Newton conjugate gradients, which keeps x sparse.

    The caller compares the gradient norm of the result with what it needs.

    Args:
        start: weights (d,) to begin from; zero when absent.
        tolerance: for the largest entry of `∇J`.
    """
    n, d = x.shape
    model = LogisticRegression(
        C=1.0 / (n * alpha),
        fit_intercept=False,
        solver="newton-cg",
        tol=tolerance,
        max_iter=1000,
        warm_start=True,
    )
    model.coef_ = (np.zeros(d) if start is None else start)[None].copy()
    model.fit(x, y)
    weights = model.coef_[0]
    gradient = -(x.T @ (expit(-y * (x @ weights)) * y)) / n + alpha * weights
    return Fit(weights, float(np.linalg.norm(gradient)), int(model.n_iter_[0]))
