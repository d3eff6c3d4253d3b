"""From shapes to the cheapest exact or near-exact contraction of each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from whence.contraction.plan import BlockPlan, Plan
from whence.curvature.kronecker import BlockInverse
from whence.linalg import HadamardExpansion, expand_inverse

# An entry that is added singly costs a copy beside its product: this many queries' worth.
_ENTRY_OVERHEAD = 100


@dataclass(frozen=True)
class BlockShape:
    """What the planner knows of one block's gradients.

    Attributes:
        outer: whether they are kept as outer products (not as tokens).
        query_positions, train_positions: positions of one gradient.
    """

    outer: bool
    query_positions: int
    train_positions: int


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
        candidates = [_explicit(inverse, shape, queries, train)]
        if shape.outer and inverse.separable is not None:
            candidates.append(_product(inverse, shape, queries, train, None))
        elif shape.outer and share > 0:
            least = _product_operations(inverse, shape, queries, train, rank=1, entries=0, rotate_back=True)
            if least < candidates[0].operations:
                expansion = _expand(inverse, share, queries)
                if all(one.attained for one in expansion):
                    candidates.append(_product(inverse, shape, queries, train, expansion))
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
    forming = 2 * n * t * size if t > 1 and shape.outer else 0
    if shape.outer:
        operations = 2 * n * q * size + forming + min(back, along)
        moved = n * min(size, q * g * min(o, i)) if t == 1 else n * size
    else:  # tokens: only the columns of the tokens that occur
        operations = 2 * n * q * t * o + min(back, along)
        moved = n * q * t * o
    return BlockPlan(
        inverse.block.name,
        (g, o, i),
        t,
        "explicit",
        operations,
        2.0 * moved * item,
        size * item,
        rotate_back,
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
    moved = g * n * t * (3 * rank * q * tq + 3 * entries) * item
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
