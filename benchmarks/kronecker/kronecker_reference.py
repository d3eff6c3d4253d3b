"""Float64 scores of every estimand: K-FAC and EK-FAC spelled out: two passes, eigenvectors, products.

Independent of every library, wherefrom included; slow and plain on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import capturing
import numpy as np
import torch
from capturing import Data, Pass
from estimands import Estimand
from torch import Tensor

BATCH = {"mlp": 250, "resnet": 50, "gpt2": 20}


def build(task: Path, path: Path, estimand: Estimand, tell: Callable[[str], None]) -> None:
    """Writes `scores` (queries × train) of `estimand` on `task` to `path`."""
    data = capturing.load(task)
    solve = _identity if estimand.method == "identity" else fit(data, estimand, tell)
    queries = {name: solve(name, g) for name, g in gradients(data, data.Xq, data.yq, estimand).items()}
    blocks = []
    for X, y in batches(data, data.X, data.y):
        tell(f"{path.stem}: float64 scores, {sum(b.shape[1] for b in blocks)} of {len(data.y)}")
        train = gradients(data, X, y, estimand)
        blocks.append(sum(queries[name].flatten(1) @ train[name].flatten(1).T for name in data.modules))
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, scores=torch.cat(blocks, dim=1).numpy())
    os.replace(partial, path)


def _identity(name: str, gradients: Tensor) -> Tensor:
    return gradients


def fit(data: Data, e: Estimand, tell: Callable[[str], None]) -> Callable[[str, Tensor], Tensor]:
    """The damped inverse as a function of a layer's name and its gradients `(b, o, i)`."""
    bases = eigenbases(data, e, tell)
    values = {
        name: eigenvalues_a[None] * eigenvalues_b[:, None] * float(t) ** e.scale
        for name, (eigenvalues_a, _, eigenvalues_b, _, t) in bases.items()
    }
    if e.method == "ekfac":
        values = _second_moments(data, e, bases, tell)

    def solve(name: str, g: Tensor) -> Tensor:
        a, qa, b, qb, _ = bases[name]
        if e.damping == "factored":
            root, pi = data.damping**0.5, (a.mean() / b.mean()).sqrt()
            return qb @ ((qb.T @ g @ qa) / ((a + pi * root)[None] * (b + root / pi)[:, None])) @ qa.T
        damping = 0.1 * values[name].mean() if e.damping == "relative" else data.damping
        return qb @ ((qb.T @ g @ qa) / (values[name] + damping)) @ qa.T

    return solve


def eigenbases(
    data: Data, e: Estimand, tell: Callable[[str], None]
) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor, int]]:
    """Per layer: eigenvalues and vectors of `A = E_positions[aaᵀ]` and `B = E[Σ_t δδᵀ]`, and `t`."""
    a_sums: dict[str, Tensor] = {}
    b_sums: dict[str, Tensor] = {}
    positions = {}
    generator = torch.Generator().manual_seed(0)
    done = 0
    for X, y in batches(data, data.X, data.y):
        tell(f"{data.kind} {e.key}: float64 factors, {done} of {len(data.y)}")
        done += len(y)
        kept = Pass(data, X, e.bias)
        for name, a in kept.a.items():
            positions[name] = a.shape[1]
            a = a.flatten(0, 1)
            a_sums[name] = a_sums.get(name, 0.0) + a.T @ a
        for vectors in capturing.label_columns(kept.outputs, y, e.labels, generator):
            for name, delta in kept.deltas(vectors).items():
                delta = delta.flatten(0, 1)
                b_sums[name] = b_sums.get(name, 0.0) + delta.T @ delta
    n = len(data.y)
    return {
        name: (
            *torch.linalg.eigh(a_sums[name] / (n * positions[name])),
            *torch.linalg.eigh(b_sums[name] / n),
            positions[name],
        )
        for name in data.modules
    }


def _second_moments(
    data: Data,
    e: Estimand,
    bases: dict[str, tuple[Tensor, Tensor, Tensor, Tensor, int]],
    tell: Callable[[str], None],
) -> dict[str, Tensor]:
    """`Λ = E[(Q_Bᵀ ∇W Q_A)²]`, `(o, i)` per layer."""
    sums: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(1)  # draws of its own: the basis has seen the others
    done = 0
    for X, y in batches(data, data.X, data.y):
        tell(f"{data.kind} {e.key}: float64 eigenvalues, {done} of {len(data.y)}")
        done += len(y)
        kept = Pass(data, X, e.bias)
        rotated = {name: a @ bases[name][1] for name, a in kept.a.items()}
        for vectors in capturing.label_columns(kept.outputs, y, e.labels, generator):
            for name, delta in kept.deltas(vectors).items():
                d = delta @ bases[name][3]
                if d.shape[1] == 1 or e.positions == "independent":
                    moment = (d**2).flatten(0, 1).T @ (rotated[name] ** 2).flatten(0, 1)
                else:
                    moment = ((d.transpose(1, 2) @ rotated[name]) ** 2).sum(0)
                sums[name] = sums.get(name, 0.0) + moment
    return {name: total / len(data.y) for name, total in sums.items()}


def gradients(data: Data, X: Tensor, y: Tensor, e: Estimand) -> dict[str, Tensor]:
    kept = Pass(data, X, e.bias)
    deltas = kept.deltas(capturing.residual(kept.outputs, y))
    return {name: deltas[name].transpose(1, 2) @ kept.a[name] for name in data.modules}


def batches(data: Data, X: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = BATCH[data.kind]
    return list(zip(X.split(size), y.split(size)))
