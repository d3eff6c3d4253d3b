"""Influence of linear models in plain NumPy, float64, dense: what the scores are compared with."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax


def softmax_scores(
    weights: np.ndarray, x: np.ndarray, y: np.ndarray, query_x: np.ndarray, query_y: int, alpha: float
) -> np.ndarray:
    """Scores (n,) of all training examples for one query, from explicit gradients and Hessian."""
    classes, d = weights.shape
    n = len(y)
    p = softmax(x @ weights.T, axis=1)
    hessian = np.zeros((classes * d, classes * d))
    for probabilities, pixels in zip(p, x):
        curvature = np.diag(probabilities) - np.outer(probabilities, probabilities)
        hessian += np.kron(curvature, np.outer(pixels, pixels)) / n
    hessian += alpha * np.eye(classes * d)
    gradients = np.einsum("nc,nd->ncd", p - np.eye(classes)[y], x).reshape(n, -1)
    query = np.outer(softmax(weights @ query_x) - np.eye(classes)[query_y], query_x).ravel()
    return gradients @ np.linalg.solve(hessian, query)


def margin_scores(
    slopes: np.ndarray, curvatures: np.ndarray, signed: np.ndarray, query: np.ndarray, alpha: float
) -> np.ndarray:
    """Scores (n,) for losses of the margin, given `ℓ'` and `ℓ''`, rows y_i x_i, and the query's gradient."""
    hessian = (signed.T * curvatures) @ signed / len(signed) + alpha * np.eye(signed.shape[1])
    return slopes * (signed @ np.linalg.solve(hessian, query))


def logistic_scores(
    weights: np.ndarray, x: np.ndarray, y: np.ndarray, query_x: np.ndarray, query_y: int, alpha: float
) -> np.ndarray:
    """Scores of binary logistic regression, labels −1 and +1."""
    signed = x * y[:, None]
    misfit = expit(-signed @ weights)
    query = -expit(-query_y * (query_x @ weights)) * query_y * query_x
    return margin_scores(-misfit, misfit * (1 - misfit), signed, query, alpha)


def smooth_hinge_scores(
    weights: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    query_x: np.ndarray,
    query_y: int,
    alpha: float,
    t: float,
) -> np.ndarray:
    """Scores of the smooth hinge of temperature t > 0."""
    signed = x * y[:, None]
    inside = expit((1 - signed @ weights) / t)
    query = -expit((1 - query_y * (query_x @ weights)) / t) * query_y * query_x
    return margin_scores(-inside, inside * (1 - inside) / t, signed, query, alpha)
