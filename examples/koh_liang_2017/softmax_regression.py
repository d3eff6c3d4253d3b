"""Softmax regression without bias, trained and retrained to its true optimum in float64.

`J(W) = (1/n) Σ_j ℓ_j(W) + (α/2)‖W‖²` with `ℓ_j` the cross-entropy of `softmax(W x_j)`, `W` (classes, d).
Removing example `i` keeps the weights `1/n`: `J_{−i} = J − ℓ_i / n`. It changes little, so all removals share
the Cholesky factor of `∇²J(Ŵ)`, and a chord iteration with it contracts by about the leverage of `i` a step.

Nothing here uses influence functions: this is what their predictions are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

ROWS = 4096  # rows of data at a time: a block and its probabilities stay near the processor's caches


@dataclass(frozen=True)
class Problem:
    """Data and regularisation: x (n, d) float64, y (n,) int64 in 0…classes−1, α > 0."""

    x: Tensor
    y: Tensor
    classes: int
    alpha: float

    @property
    def n(self) -> int:
        return self.x.shape[0]


@dataclass(frozen=True)
class Fit:
    """An optimum: parameters (classes, d), the norm of ∇J there, and steps taken."""

    weights: Tensor
    gradient_norm: float
    iterations: int


@dataclass(frozen=True)
class Retrained:
    """One optimum a removal.

    Attributes:
        removed: (r,) rows of the training data.
        weights: (r, classes, d) the optimum of each `J_{−i}`.
        gradient_norm: (r,) ‖∇J_{−i}‖ where each iteration stopped. `J_{−i}` is a sum of convex losses and
            (α/2)‖W‖², so the distance to its exact optimum is at most gradient_norm / α.
        converged: (r,) whether that norm is within the tolerance asked for.
        iterations: chord steps taken by the slowest.
    """

    removed: np.ndarray
    weights: Tensor
    gradient_norm: np.ndarray
    converged: np.ndarray
    iterations: int


def loss_sum_and_gradients(problem: Problem, weights: Tensor) -> tuple[Tensor, Tensor]:
    """`Σ_j ℓ_j` (r,) and its gradients (r, classes, d) at r parameters at once: two GEMMs a block of rows."""
    r, classes, d = weights.shape
    columns = weights.permute(2, 1, 0).reshape(d, classes * r)
    totals = torch.zeros(r, dtype=weights.dtype)
    gradients = torch.zeros(d, classes * r, dtype=weights.dtype)
    for start in range(0, problem.n, ROWS):
        x, y = problem.x[start : start + ROWS], problem.y[start : start + ROWS]
        rows = torch.arange(len(y))
        logits = (x @ columns).view(len(y), classes, r)
        logits -= logits.amax(dim=1, keepdim=True)
        totals -= logits[rows, y].sum(dim=0)
        normaliser = logits.exp_().sum(dim=1, keepdim=True)
        totals += normaliser.log().sum(dim=(0, 1))
        residual = logits.div_(normaliser)
        residual[rows, y] -= 1.0
        gradients.addmm_(x.T, residual.view(len(y), classes * r))
    return totals, gradients.view(d, classes, r).permute(2, 1, 0).contiguous()


def losses(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy (r, m) of m examples under r parameters (r, classes, d)."""
    logits = torch.einsum("md,rcd->rmc", x, weights)
    picked = logits.gather(2, y.view(1, -1, 1).expand(len(weights), -1, 1)).squeeze(2)
    return torch.logsumexp(logits, dim=2) - picked


def example_gradients(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """`∇ℓ_i(W_i)` (m, classes, d): one example a parameter, weights (m, classes, d)."""
    residual = torch.softmax(torch.einsum("md,mcd->mc", x, weights), dim=1)
    residual[torch.arange(len(y)), y] -= 1.0
    return residual.unsqueeze(2) * x.unsqueeze(1)


def objective_hessian(problem: Problem, weights: Tensor) -> Tensor:
    """`∇²J` (classes·d, classes·d), row-major in W: blocks `(1/n) Xᵀ diag(p_c δ_cc' − p_c p_c') X + α I`.

    The rows of `diag(p) − ppᵀ` sum to zero, so a diagonal block is minus the sum of the others in its row:
    only the classes·(classes−1)/2 products of different classes are computed.
    """
    classes, d = weights.shape
    p = torch.softmax(problem.x @ weights.T, dim=1)
    hessian = torch.zeros(classes, d, classes, d, dtype=weights.dtype)
    for a in range(classes):
        for b in range(a):
            block = torch.zeros(d, d, dtype=weights.dtype)
            for start in range(0, problem.n, ROWS):
                x = problem.x[start : start + ROWS]
                coupling = p[start : start + ROWS, a] * p[start : start + ROWS, b] / problem.n
                block.addmm_(x.T, x * coupling.unsqueeze(1))
            hessian[a, :, b] = -block
            hessian[b, :, a] = -block
            hessian[a, :, a] += block
            hessian[b, :, b] += block
    flat = hessian.view(classes * d, classes * d)
    flat.diagonal().add_(problem.alpha)
    return flat


def fit_lbfgs(problem: Problem, *, without: int | None = None, gradient_tolerance: float = 1e-7) -> Fit:
    """Train from zero by L-BFGS, with or without one example (weights stay 1/n)."""
    d = problem.x.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).view(1, problem.classes, d)
        total, gradient = loss_sum_and_gradients(problem, weights)
        if without is not None:
            one = slice(without, without + 1)
            total = total - losses(problem.x[one], problem.y[one], weights)[:, 0]
            gradient = gradient - example_gradients(problem.x[one], problem.y[one], weights)
        value = total / problem.n + 0.5 * problem.alpha * weights.square().sum()
        slope = gradient / problem.n + problem.alpha * weights
        return float(value), slope.numpy().ravel()

    # SciPy's BLAS threads and PyTorch's wait for each other by spinning, which costs 20 times the work.
    with threadpool_limits(1, user_api="blas"):
        result = scipy.optimize.minimize(
            objective,
            np.zeros(problem.classes * d),
            jac=True,
            method="L-BFGS-B",
            # The stop is on the largest entry of the gradient alone: `ftol` stops long before the optimum.
            options={
                "maxiter": 20_000,
                "maxfun": 40_000,
                "maxcor": 30,
                "ftol": 0.0,
                "gtol": gradient_tolerance,
            },
        )
    norm = float(np.linalg.norm(objective(result.x)[1]))
    return Fit(torch.from_numpy(result.x).view(problem.classes, d), norm, int(result.nit))


def fit_exact(
    problem: Problem, start: Fit, *, tolerance: float, max_iterations: int = 30
) -> tuple[Fit, Tensor]:
    """Polish by Newton's method with one Hessian (chord steps).

    Returns the optimum and the Cholesky factor of `∇²J` at `start`, as good a preconditioner as the
    one at the optimum.

    Raises:
        ArithmeticError: the gradient norm did not fall below `tolerance`.
    """
    factor = torch.linalg.cholesky(objective_hessian(problem, start.weights))
    weights = start.weights
    for iteration in range(max_iterations + 1):
        _, gradient = loss_sum_and_gradients(problem, weights.unsqueeze(0))
        slope = gradient[0] / problem.n + problem.alpha * weights
        norm = float(slope.norm())
        if norm <= tolerance:
            return Fit(weights, norm, start.iterations + iteration), factor
        weights = weights - torch.cholesky_solve(slope.view(-1, 1), factor).view_as(weights)
    raise ArithmeticError(
        f"training stopped at ‖∇J‖ = {norm:.2e} after {max_iterations} Newton steps, above the tolerance "
        f"{tolerance:.0e}"
    )


def retrain_without(
    problem: Problem,
    optimum: Fit,
    factor: Tensor,
    removed: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int = 30,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Retrained:
    """Retrain once for each removed example, from the full optimum to ‖∇J_{−i}‖ ≤ tolerance, in batches.

    A removal that does not get there has `converged` false, and is the caller's to report and leave out.
    """
    weights, norms, slowest = [], [], 0
    for first in range(0, len(removed), batch):
        rows = torch.from_numpy(np.asarray(removed[first : first + batch], dtype=np.int64))
        w, norm, iterations = _retrain_batch(problem, optimum, factor, rows, tolerance, max_iterations)
        weights.append(w)
        norms.append(norm)
        slowest = max(slowest, iterations)
        if progress is not None:
            progress(min(first + batch, len(removed)), len(removed))
    norm = torch.cat(norms).numpy()
    return Retrained(np.asarray(removed), torch.cat(weights), norm, norm <= tolerance, slowest)


def _retrain_batch(
    problem: Problem, optimum: Fit, factor: Tensor, rows: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, int]:
    x, y = problem.x[rows], problem.y[rows]
    weights = optimum.weights.expand(len(rows), -1, -1).clone()
    # At the full optimum ∇J = 0 to within its tolerance, so the first slope needs no pass over the data.
    slope = -example_gradients(x, y, weights) / problem.n
    norms = slope.flatten(1).norm(dim=1)
    active = torch.arange(len(rows))
    steps = 0
    while len(active) and steps < max_iterations:
        steps += 1
        step = torch.cholesky_solve(slope.flatten(1).T, factor).T.reshape_as(slope)
        weights[active] -= step
        _, gradient = loss_sum_and_gradients(problem, weights[active])
        gradient -= example_gradients(x[active], y[active], weights[active])
        slope = gradient / problem.n + problem.alpha * weights[active]
        norms[active] = slope.flatten(1).norm(dim=1)
        left = norms[active] > tolerance
        active, slope = active[left], slope[left]
    return weights, norms, steps
