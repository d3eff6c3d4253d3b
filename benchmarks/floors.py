"""The physical floor: the FLOPs a method cannot do without, divided by the GEMM rate of the same processes.

An estimate of what the dense linear algebra of this method must do (a multiply and an add count two),
for a chain of linear layers with widths d₀ … d_L, n training examples, q queries, p parameters, m_l =
d_{l−1}·d_l weights per layer and M = Σ m_l. Activations, biases, the softmax, passes over memory and
Python count nothing, so no implementation reaches it.

- exact (one layer): Hessian by class pairs, C(C+1)/2 · n · d(d+1) for d inputs with the bias; Cholesky p³/3;
  solves 2 p² q; scores 2 q n p.
- CG: one product per iteration and query, iterations as float64 CG needs them for a relative residual of
  1e-4, then scores 2 q n p and gradients 6 (n + q) M. Primal forward and backward passes are kept, so a
  product costs, per example, 4 m₁ + 8 Σ_{l>1} m_l for the GGN and 4 m₁ + 12 Σ_{l>1} m_l for the Hessian.
  A block method shares directions between queries, may need fewer iterations than this, and so can go below.
  On one linear layer CG can also work on the dense Hessian, 2 p² a product: below for many queries.
- LiSSA: depth · batch in place of iterations · n.
"""

from __future__ import annotations

import itertools

import numpy as np


def flops(family: str, curvature: str, widths: tuple[int, ...], n: int, q: int, products: float) -> float:
    """``products``: for CG the iterations summed over queries, for LiSSA depth · batch / n · queries."""
    weights = [a * b for a, b in itertools.pairwise(widths)]
    p = sum(weights) + sum(widths[1:])
    scoring = 2.0 * q * n * p
    if family == "exact":
        if len(weights) != 1:
            raise ValueError(f"floor of an exact solve: expected one linear layer, found {len(weights)}")
        d, c = widths[0] + 1, widths[1]
        return c * (c + 1) / 2 * n * d * (d + 1) + p**3 / 3 + 2.0 * p**2 * q + scoring
    deeper = {"ggn": 8.0, "hessian": 12.0}[curvature]
    product = n * (4.0 * weights[0] + deeper * sum(weights[1:]))
    return products * product + scoring + 6.0 * (n + q) * sum(weights)


def widths_of(task: np.lib.npyio.NpzFile) -> tuple[int, ...]:
    depth = sum(name.startswith("bias_") for name in task.files)
    return (task["weight_0"].shape[1], *(task[f"bias_{i}"].shape[0] for i in range(depth)))
