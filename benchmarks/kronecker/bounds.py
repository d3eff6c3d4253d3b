"""The physical floor: FLOPs that no implementation can do without, over the GEMM rate of the same processes.

A multiply and an add count two. A layer with `o` outputs, `i` inputs (bias included), used at `t`
positions; `n` training examples, `q` queries, `c` curvature vectors an example (classes if exact, else
one). Everything that is not dense linear algebra counts nothing.

- fit: one forward pass `2 n t o i`, one backward pass a vector (the first layer's excepted); Gram matrices of
  activations and gradients, their symmetric half; eigenvectors `9 d³`; for EK-FAC both rotated, then second
  moments: at one position one product of squares `2 n o i`, else `c` products `2 n t o i`.
- scores, full rank: passes over train and queries, then a product `2 q n o i`, for which layers with
  several positions need the training gradients first, `2 n t o i`; the queries' inverse, rotated back, or
  the training side rotated.
- scores, rank one (K-FAC with factored damping, identity): `2 q n t² (o + i)`, if that is less.
"""

from __future__ import annotations

from dataclasses import dataclass

import capturing
import torch


@dataclass(frozen=True)
class Layer:
    outputs: int
    inputs: int
    positions: int


def layers_of(data: capturing.Data) -> list[Layer]:
    with torch.enable_grad():
        kept = capturing.Pass(data, data.X[:1])
        deltas = kept.deltas(torch.ones_like(kept.outputs))
    return [Layer(deltas[m].shape[2], kept.a[m].shape[2], kept.a[m].shape[1]) for m in data.modules]


def fit_flops(layers: list[Layer], n: int, c: int, corrected: bool) -> float:
    """`c` curvature vectors an example; `corrected`: EK-FAC."""
    total = 0.0
    for k, layer in enumerate(layers):
        o, i, t = layer.outputs, layer.inputs, layer.positions
        total += 2.0 * n * t * o * i * (1 + (c if k else 0))
        total += 1.0 * n * t * i**2 + 1.0 * n * c * t * o**2 + 9.0 * (o**3 + i**3)
        if corrected:
            total += 2.0 * n * t * i**2 + 2.0 * n * c * t * o**2
            total += 2.0 * n * o * i if t == 1 else 2.0 * n * c * t * o * i
    return total


def score_flops(layers: list[Layer], n: int, q: int, full_rank: bool) -> float:
    total = 0.0
    for k, layer in enumerate(layers):
        o, i, t = layer.outputs, layer.inputs, layer.positions
        total += 2.0 * (n + q) * t * o * i * (2 if k else 1)
        explicit = 2.0 * q * n * o * i + (2.0 * (n + q) * t * o * i if t > 1 else 0.0)
        if full_rank:
            back, forth = 2.0 * q * (o * o * i + o * i * i), 2.0 * n * t * (o * o + i * i)
            total += explicit + 2.0 * q * t * (o * o + i * i) + min(back, forth)
        else:
            total += min(explicit, 2.0 * q * n * t * t * (o + i))
    return total
