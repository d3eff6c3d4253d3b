"""From shapes to the cheapest exact or near-exact contraction of each block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.layers import GradientForm
from wherefrom.linalg import HadamardExpansion, expand_inverse
from wherefrom.solvers.contraction.low_rank_queries import LowRankQueryScorer
from wherefrom.solvers.contraction.plan import BlockPlan, Plan

# An entry that is added singly costs a copy beside its product: this many queries' worth.
_ENTRY_OVERHEAD = 100
# Seconds that fitting an expansion takes for each entry, and the share of an explicit contraction that one
# usually saves: with few queries the fit costs more than it saves.
_EXPANSION_SECONDS = 1.5e-6
_USUAL_SAVING = 0.7
# Operations of an eigendecomposition in float64, per cube of its size, at the rate of products in float32.
_EIGEN = 100


@dataclass(frozen=True)
class BlockShape:
    """What the planner knows of one block's gradients.

    Attributes:
        tokens: whether they are kept as tokens (not as outer products).
        query_positions, train_positions: positions of one gradient.
        sample: gradients of a few queries, for the ranks of their solutions; without it, these are kept in
            full.
    """

    tokens: bool
    query_positions: int
    train_positions: int
    sample: GradientForm | None = None


def make_plan(
    inverses: Sequence[BlockInverse],
    shapes: Sequence[BlockShape],
    *,
    queries: int,
    train: int,
    rtol: float,
    capture_operations: float,
) -> Plan:
    """The plan with the least predicted time, block by block.

    Args:
        inverses: one for each block.
        shapes: likewise.
        queries, train: numbers of examples.
        rtol: error allowed in a query's scores, relative to their norm; 0 for exact plans only.
        capture_operations: of the passes that make the factors.
    """
    shares = _error_shares(inverses, rtol)
    blocks = []
    for inverse, shape, share in zip(inverses, shapes, shares):
        if shape.tokens:
            blocks.append(_tokens(inverse, shape, queries, train))
            continue
        candidates = [_explicit(inverse, shape, queries, train)]
        if inverse.separable is not None:
            candidates.append(_product(inverse, shape, queries, train, None))
        elif share > 0 and inverse.damping > 0:  # a singular inverse has no expansion
            least = _product_operations(inverse, shape, queries, train, rank=1, entries=0, rotate_back=True)
            saved = candidates[0].seconds * _USUAL_SAVING
            if least < candidates[0].operations and inverse.block.size * _EXPANSION_SECONDS < saved:
                expansion = _expand(inverse, share, queries)
                if all(one.attained for one in expansion):
                    candidates.append(_product(inverse, shape, queries, train, expansion))
        if share > 0 and shape.sample is not None:
            best = min(plan.seconds for plan in candidates)
            if _query_rank(inverse, shape, queries, train, 1, share).seconds < best:
                rank = _sampled_rank(inverse, shape.sample, share)
                candidates.append(_query_rank(inverse, shape, queries, train, rank, share))
        blocks.append(min(candidates, key=lambda plan: plan.seconds))
    return Plan(tuple(blocks), queries, train, capture_operations, rtol)


def _error_shares(inverses: Sequence[BlockInverse], rtol: float) -> list[float]:
    """Error each block may make relative to its own scores, so that together they make `rtol` of the
    total."""
    variances = []
    for inverse in inverses:
        moments = inverse.eigenvalues
        if moments is None:
            variances.append(0.0)
            continue
        # Queries are taken to be spread like the training gradients.
        variances.append(float((inverse.weights.double() * moments).square().sum()))
    total = sum(variances)
    count = max(1, sum(variance > 0 for variance in variances))
    return [
        min(0.1, rtol * (total / (count * variance)) ** 0.5) if variance > 0 and rtol > 0 else 0.0
        for variance in variances
    ]


def _explicit(inverse: BlockInverse, shape: BlockShape, q: int, n: int) -> BlockPlan:
    g, o, i = inverse.block.shape
    size, item = g * o * i, inverse.weights.element_size()
    t = shape.train_positions
    back = _rotation(inverse, o * i, q)
    along = n * t * g * 2 * (_wide(inverse.basis.left, o) + _wide(inverse.basis.right, i))
    rotate_back = back <= along
    forming = 2 * n * t * size if t > 1 else 0
    moved = n * min(size, q * g * min(o, i)) if t == 1 else n * size
    return BlockPlan(
        inverse.block.name,
        (g, o, i),
        t,
        "explicit",
        2.0 * n * q * size + forming + min(back, along),
        2.0 * moved * item,
        size * item,
        rotate_back,
    )


def _tokens(inverse: BlockInverse, shape: BlockShape, q: int, n: int) -> BlockPlan:
    """As if every token of a training example were in every query."""
    g, o, i = inverse.block.shape
    tq, t, item = shape.query_positions, shape.train_positions, inverse.weights.element_size()
    operations = 2.0 * n * q * t * o + 4.0 * q * tq * _wide(inverse.basis.left, o)
    return BlockPlan(
        inverse.block.name,
        (g, o, i),
        t,
        "tokens",
        operations,
        2.0 * n * q * t * o * item,
        tq * o * item,
        rotate_back=True,
    )


def _product(
    inverse: BlockInverse, shape: BlockShape, q: int, n: int, expansion: list[HadamardExpansion] | None
) -> BlockPlan:
    g, o, i = inverse.block.shape
    rank = 1 if expansion is None else max(one.rank for one in expansion)
    entries = 0 if expansion is None else max(one.entries for one in expansion)
    item = inverse.weights.element_size()
    both = [
        _product_operations(inverse, shape, q, n, rank=rank, entries=entries, rotate_back=back)
        for back in (True, False)
    ]
    rotate_back = entries == 0 and both[0] <= both[1]
    tq, t = shape.query_positions, shape.train_positions
    moved = g * n * t * (3 * rank * q * tq + 6 * entries) * item
    return BlockPlan(
        inverse.block.name,
        (g, o, i),
        t,
        "gram" if expansion is None else "low rank",
        both[0] if rotate_back else both[1],
        float(moved),
        g * tq * (rank * (o + i) + entries) * item,
        rotate_back,
        rank,
        entries,
        expansion,
    )


def _query_rank(
    inverse: BlockInverse, shape: BlockShape, q: int, n: int, rank: int, tolerance: float
) -> BlockPlan:
    g, o, i = inverse.block.shape
    narrow, t, item = min(o, i), shape.train_positions, inverse.weights.element_size()
    decomposition = q * g * (_EIGEN * narrow**3 + 8 * o * i * narrow)
    back = 2 * q * g * rank * (_wide(inverse.basis.left, o) + _wide(inverse.basis.right, i))
    products = 2.0 * g * n * t * q * rank * (o + i + 1)
    return BlockPlan(
        inverse.block.name,
        (g, o, i),
        t,
        "query rank",
        products + decomposition + back + _rotation(inverse, o * i, q),
        3.0 * g * n * t * q * rank * item,
        g * rank * (o + i + 1) * item,
        rotate_back=True,
        rank=rank,
        tolerance=tolerance,
    )


def _sampled_rank(inverse: BlockInverse, sample: GradientForm, tolerance: float) -> int:
    scorer = LowRankQueryScorer(inverse, tolerance)
    scorer.absorb(sample)
    return max(1, math.ceil(scorer.mean_rank))


def _product_operations(
    inverse: BlockInverse, shape: BlockShape, q: int, n: int, *, rank: int, entries: int, rotate_back: bool
) -> float:
    g, o, i = inverse.block.shape
    tq, t = shape.query_positions, shape.train_positions
    wide = _wide(inverse.basis.left, o) + _wide(inverse.basis.right, i)
    rotations = 2 * g * wide * (rank * q * tq if rotate_back else n * t)
    return 2.0 * g * n * t * q * tq * (rank * (o + i + 1) + entries) + rotations


def _expand(inverse: BlockInverse, rtol: float, queries: int) -> list[HadamardExpansion]:
    assert inverse.eigenvalues is not None
    g, o, i = inverse.block.shape
    return [
        expand_inverse(
            inverse.eigenvalues[group],
            inverse.damping,
            rtol,
            max_rank=max(1, o * i // (2 * (o + i))),
            entry_cost=1 + _ENTRY_OVERHEAD / queries,
        )
        for group in range(g)
    ]


def _rotation(inverse: BlockInverse, size: int, count: int) -> float:
    """Operations to rotate `count` explicit matrices."""
    g, o, i = inverse.block.shape
    left = o if inverse.basis.left is not None else 0
    right = i if inverse.basis.right is not None else 0
    return 2.0 * count * g * size * (left + right)


def _wide(basis: Tensor | None, width: int) -> int:
    return 0 if basis is None else width * width
