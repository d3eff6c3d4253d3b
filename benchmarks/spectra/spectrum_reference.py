"""The answers in float64, at the float32 parameters: eigenvalues, trace and cumulative spectral distribution.

Products are torch's double backward on the network in float64, none of the libraries'.

- The 30 largest eigenvalues by ARPACK to a tolerance of 1e-9.
- The trace exactly. Activations are piecewise linear, so each output is linear in any one parameter and the
  Hessian's diagonal is the Gauss-Newton matrix's: `tr H = (1/n) Σ_i Σ_c p_ic ‖∇_θ log p_ic‖²` for the
  cross-entropy.
- The distribution: the 30 eigenvalues are atoms of weight `1/p`; the rest is Lanczos quadrature on the
  complement of their eigenvectors, where little variance is left between random starts.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import problems
import torch
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

KNOWN, STEPS, STARTS, PROBES, ROWS = 30, 60, 4, 40, 20


def build(path: Path, out: Path) -> None:
    problem = problems.load(path, torch.float64)
    product = _product(problem)
    p = problem.parameter_count
    rng = np.random.default_rng(1)
    operator = LinearOperator((p, p), matvec=product, dtype=np.float64)
    values, vectors = eigsh(operator, k=KNOWN, ncv=3 * KNOWN, tol=1e-9, which="LA", v0=rng.normal(size=p))
    nodes, weights = zip(*(_quadrature(product, vectors, rng) for _ in range(STARTS)))
    rest = np.concatenate(weights) * (p - KNOWN) / (p * STARTS)
    partial = out.with_suffix(".partial.npz")
    np.savez(
        partial,
        eigenvalues=values[::-1],
        trace=_trace(problem),
        nodes=np.concatenate([values, *nodes]),
        weights=np.concatenate([np.full(KNOWN, 1 / p), rest]),
        trace_by_start=np.array([(n * w).sum() * (p - KNOWN) + values.sum() for n, w in zip(nodes, weights)]),
        probe_error=_probe_error(product, p, rng),
        parameters=p,
        examples=len(problem.y),
    )
    os.replace(partial, out)


def distance(nodes: np.ndarray, weights: np.ndarray, reference: np.lib.npyio.NpzFile) -> float:
    """Wasserstein-1 distance `∫ |F − F_ref|` of two spectral distributions, in units of the reference's mean
    eigenvalue in modulus."""
    every = np.concatenate([nodes, reference["nodes"]])
    signed = np.concatenate([weights, -reference["weights"]])
    order = every.argsort()
    apart = np.abs(np.cumsum(signed[order])[:-1])
    scale = (np.abs(reference["nodes"]) * reference["weights"]).sum()
    return float((apart * np.diff(every[order])).sum() / scale)


def _product(problem: problems.Problem):
    parameters = list(problem.model.parameters())
    sizes = [p.numel() for p in parameters]
    loss = nn.functional.cross_entropy(problem.model(problem.X), problem.y)
    first = torch.autograd.grad(loss, parameters, create_graph=True)

    def product(vector: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(vector.ravel()).split(sizes)
        directions = [part.view_as(p) for part, p in zip(parts, parameters)]
        rows = torch.autograd.grad(first, parameters, directions, retain_graph=True)
        return torch.cat([row.flatten() for row in rows]).numpy()

    return product


def _quadrature(product, known: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (which sum to 1) of Gauss quadrature for a random vector outside `known`."""
    vector = rng.normal(size=len(known))
    vector -= known @ (known.T @ vector)
    basis = np.empty((STEPS, len(known)))
    alpha, beta = np.empty(STEPS), np.empty(STEPS)
    for step in range(STEPS):
        basis[step] = vector / np.linalg.norm(vector)
        vector = product(basis[step])
        alpha[step] = vector @ basis[step]
        for _ in range(2):
            vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
            vector -= known @ (known.T @ vector)
        beta[step] = np.linalg.norm(vector)
    values, vectors = eigh_tridiagonal(alpha, beta[:-1])
    return values, vectors[0] ** 2


def _probe_error(product, p: int, rng: np.random.Generator) -> float:
    """Relative standard deviation of one Hutchinson probe `zᵀ H z`, `z` of random signs."""
    signs = [rng.choice([-1.0, 1.0], p) for _ in range(PROBES)]
    samples = [float(sign @ product(sign)) for sign in signs]
    return float(np.std(samples, ddof=1) / np.mean(samples))


def _trace(problem: problems.Problem) -> float:
    values = {name: p.detach() for name, p in problem.model.named_parameters()}

    def log_probability(values: dict[str, Tensor], x: Tensor, label: int) -> tuple[Tensor, Tensor]:
        logits = torch.func.functional_call(problem.model, values, x[None])[0]
        picked = logits.log_softmax(0)[label]
        return picked, picked.detach()

    gradients = torch.func.vmap(torch.func.grad(log_probability, has_aux=True), (None, 0, None))
    total = 0.0
    for X in problem.X.split(ROWS):
        for label in range(10):
            found, log_p = gradients(values, X, label)
            squares = sum(g.flatten(1).square().sum(1) for g in found.values())
            total += float((log_p.exp() * squares).sum())
    return total / len(problem.y)
