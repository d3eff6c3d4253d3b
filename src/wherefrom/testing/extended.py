"""Scores of small models in extended precision (64 bits of mantissa where the machine has them): a reference
against which float64 itself has an error.

Closed forms throughout, none of them shared with the operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Array = np.ndarray
LossName = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]


@dataclass(frozen=True)
class ExtendedModel:
    """`f = W₂ tanh(W₁ x + b₁) + b₂`, or `f = W₂ x + b₂` without a hidden layer.

    Parameters are ordered as torch has them: `W₁, b₁, W₂, b₂`, each row-major.
    """

    weights: tuple[Array, ...]

    def outputs_and_jacobian(self, x: Array) -> tuple[Array, Array]:
        """`f (n, c)` and `∂f/∂θ (n, c, p)`."""
        x = x.astype(np.longdouble)
        hidden, first = x, None
        if len(self.weights) == 4:
            w1, b1 = self.weights[:2]
            hidden = np.tanh(x @ w1.T + b1)
            w2 = self.weights[2]
            slope = (1 - hidden**2)[:, None, :] * w2[None]  # (n, c, h)
            first = np.concatenate(
                [(slope[..., None] * x[:, None, None, :]).reshape(len(x), len(w2), -1), slope], axis=2
            )
        w2, b2 = self.weights[-2:]
        c, d = w2.shape
        eye = np.eye(c, dtype=np.longdouble)
        second = np.concatenate(
            [
                (eye[None, :, :, None] * hidden[:, None, None, :]).reshape(len(x), c, c * d),
                np.broadcast_to(eye, (len(x), c, c)),
            ],
            axis=2,
        )
        jacobian = second if first is None else np.concatenate([first, second], axis=2)
        return hidden @ w2.T + b2, jacobian


def residual_and_curvature(f: Array, y: Array, loss: LossName) -> tuple[Array, Array]:
    """`∇_f ℓ (n, c)` and `∇²_f ℓ (n, c, c)`, without cancellation."""
    n, c = f.shape
    if loss == "squared_error":
        return f - y, np.broadcast_to(np.eye(c, dtype=np.longdouble), (n, c, c))
    if loss == "binary_cross_entropy":
        one, zero = 1 / (1 + np.exp(-f)), 1 / (1 + np.exp(f))
        return np.where(y > 0, -zero, one), (one * zero)[:, :, None]
    e = np.exp(f - f.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    own = np.arange(c)[None] == y[:, None]
    # Sums over the other classes, one by one: 1 − p would cancel.
    others = np.stack([np.delete(p, k, axis=1).sum(1) for k in range(c)], axis=1)
    curvature = -p[:, :, None] * p[:, None, :]
    curvature[:, np.arange(c), np.arange(c)] = p * others
    return np.where(own, -others, p), curvature


def extended_scores(
    model: ExtendedModel,
    train: tuple[Array, Array],
    queries: tuple[Array, Array],
    loss: LossName,
    damping: float,
) -> Array:
    """`∇mᵀ (G + λI)⁻¹ g` of every query and training example, `m` the loss, `G` the Gauss-Newton matrix,
    `damping` with the weight decay in it."""
    f, jacobian = model.outputs_and_jacobian(train[0])
    residual, curvature = residual_and_curvature(f, train[1], loss)
    n, _, p = jacobian.shape
    bent = np.matmul(curvature, jacobian)
    matrix = jacobian.reshape(-1, p).T @ bent.reshape(-1, p) / n
    matrix[np.arange(p), np.arange(p)] += np.longdouble(damping)
    own = (jacobian * residual[:, :, None]).sum(1)
    asked_f, asked_jacobian = model.outputs_and_jacobian(queries[0])
    asked = (asked_jacobian * residual_and_curvature(asked_f, queries[1], loss)[0][:, :, None]).sum(1)
    return asked @ _solve(matrix, own.T)


def _solve(matrix: Array, rhs: Array) -> Array:
    """Cholesky in the matrix' own precision, which LAPACK does not have."""
    p = len(matrix)
    factor = np.tril(matrix)
    for k in range(p):
        factor[k, k] = np.sqrt(factor[k, k])
        factor[k + 1 :, k] /= factor[k, k]
        factor[k + 1 :, k + 1 :] -= np.tril(np.outer(factor[k + 1 :, k], factor[k + 1 :, k]))
    x = rhs.copy()
    for k in range(p):
        x[k] = (x[k] - factor[k, :k] @ x[:k]) / factor[k, k]
    for k in reversed(range(p)):
        x[k] = (x[k] - factor[k + 1 :, k] @ x[k + 1 :]) / factor[k, k]
    return x
