"""A linear head on frozen convolutional features: reduced, whitened, and trained to its optimum."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

RANK = 1e-6  # a component this small beside the largest is rounding; whitened, it would be noise


class FrozenFeatures(nn.Module):
    """Pixels (b, 3, h, w) in [0, 1] → (b, r) float64: principal components of the network's features.

    All in float64, so that what is refitted to its optimum is not at the mercy of rounding.

    Args:
        network: pixels → (b, d), in float64, frozen, in evaluation mode.
        raw: (n, d) its features of the training images, which mean and components are taken from.
        components: r; `None`: the features as they are, not whitened.

    Features are scaled to a mean squared norm of 1 over those images, so that an L2 penalty means the same
    for every choice. Components are centred and have the same variance each.
    """

    def __init__(self, network: nn.Module, raw: Tensor, components: int | None):
        super().__init__()
        self.network = network
        n, d = raw.shape
        if components is not None and not 0 < components <= min(n - 1, d):
            raise ValueError(
                f"components={components}; expected 1 … {min(n - 1, d)}, or None for all features"
            )
        if components is None:
            mean, rotation = torch.zeros(d, dtype=torch.float64), None
            scale = raw.square().sum(dim=1).mean().rsqrt()
        else:
            mean = raw.mean(dim=0)
            _, values, rows = torch.linalg.svd(raw - mean, full_matrices=False)
            rank = int((values > RANK * values[0]).sum())
            if components > rank:
                raise ValueError(f"components={components}, and the features span only {rank}; take fewer")
            rotation = rows[:components].T / values[:components]
            scale = torch.tensor((n / components) ** 0.5, dtype=torch.float64)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("rotation", rotation)

    def reduce(self, raw: Tensor) -> Tensor:
        """(b, d) features of the network → (b, r)."""
        centred = raw - self.mean
        return self.scale * (centred if self.rotation is None else centred @ self.rotation)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.network(x))


class HeadOnFeatures(nn.Module):
    """Pixels → one score per image, positive for the class +1: `wᵀ e(x)`, no bias."""

    def __init__(self, features: nn.Module, weights: np.ndarray):
        super().__init__()
        self.features = features
        self.head = nn.Linear(len(weights), 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights)[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def fit(
    features: np.ndarray, y: np.ndarray, alpha: float, *, tolerance: float = 1e-11, max_iterations: int = 100
) -> np.ndarray:
    """Minimise `(1/n) Σ_j log(1 + exp(−y_j wᵀe_j)) + (α/2)‖w‖²` by damped Newton steps from zero.

    Args:
        features: (n, d).
        y: (n,) of −1 and +1.

    Raises:
        ArithmeticError: the gradient norm did not fall below `tolerance`.
    """
    n, d = features.shape
    signed = features * y[:, None]
    weights = np.zeros(d)

    def objective(w: np.ndarray) -> float:
        return float(np.logaddexp(0.0, -(signed @ w)).mean() + 0.5 * alpha * w @ w)

    for _ in range(max_iterations):
        misfit = expit(-(signed @ weights))
        gradient = alpha * weights - signed.T @ misfit / n
        norm = float(np.linalg.norm(gradient))
        if norm <= tolerance:
            return weights
        step = _newton_step(signed, misfit * (1.0 - misfit) / n, alpha, gradient)
        here, promised, size = objective(weights), float(gradient @ step), 1.0
        while objective(weights - size * step) > here - 1e-4 * size * promised + 1e-15 and size > 1e-8:
            size *= 0.5
        weights = weights - size * step
    raise ArithmeticError(
        f"the head stopped at ‖∇J‖ = {norm:.2e} after {max_iterations} Newton steps, above {tolerance:.0e}"
    )


def _newton_step(rows: np.ndarray, curvature: np.ndarray, alpha: float, gradient: np.ndarray) -> np.ndarray:
    n, d = rows.shape
    if d <= n:
        hessian = (rows.T * curvature) @ rows
        hessian.flat[:: d + 1] += alpha
        return np.linalg.solve(hessian, gradient)
    # More features than examples: by Woodbury's identity a system of n equations.
    weighted = np.sqrt(curvature)[:, None] * rows
    gram = weighted @ weighted.T
    gram.flat[:: n + 1] += alpha
    return (gradient - weighted.T @ np.linalg.solve(gram, weighted @ gradient)) / alpha
