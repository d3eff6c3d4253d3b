"""What solvers will take, predicted from sizes before anything long is started.

Everything is counted in operations of a matrix product in float32 (one in float64 is two of them) and divided
by a fixed rate: a prediction never depends on how fast a machine is or what else runs on it, and nor does a
choice made by one. Times are those of one core of a common CPU, or of a modest GPU, right to a factor of two
or three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.kronecker.gather import EXACT_ROOTS
from wherefrom.curvature.kronecker.moments import MAX_SIDE
from wherefrom.linalg import FactoredOperator, LinearOperator

# Operations a second, in float32.
_RATES = {"cpu": 4e10}
_GPU_RATE = 5e12
# An eigendecomposition, in n³ operations of float64, and what a factorisation of slim panels loses.
_EIGH = 10.0
_PRIMAL_LOSS = 2.0
# Up to this size (200 MB, seconds) the dual space is in float64 whatever the operator's precision is.
_DOUBLE_SIZE = 5_000
# A first block of queries: its products with the curvature, refinements included.
_QUERIES, _PRODUCTS = 4, 4
# Moments of both sides of a layer take about so many times the operations of the layer itself.
_MOMENTS = 4.0


@dataclass(frozen=True)
class Cost:
    """What a solver takes until the first scores.

    Attributes:
        seconds: of one core.
        bytes: of matrices that are held.
    """

    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"{in_words(self.seconds)}, {_size(self.bytes)}"


@dataclass(frozen=True)
class DualCost(Cost):
    """What a factorisation in the dual space takes.

    Attributes:
        size: `m`, examples × output roots.
        precision: of the matrix and its factor: that of the operator where float64 would take long, as the
            answer is refined against the operator's own products either way.
        operations: of the Gram matrix, the factorisation and the first answers.
    """

    size: int
    precision: torch.dtype
    operations: float


def seconds(operations: float, device: torch.device) -> float:
    """Of so many operations in float32."""
    return operations / _RATES.get(device.type, _GPU_RATE)


def in_words(time: float) -> str:
    """A predicted time with no more digits than it has."""
    if time < 1:
        return "less than a second"
    for least, unit, name in ((172_800, 86_400, "days"), (7_200, 3_600, "hours"), (120, 60, "minutes")):
        if time >= least:
            return f"about {time / unit:.2g} {name}"
    return f"about {time:.2g} s"


def primal_cost(operator: LinearOperator) -> Cost:
    """Of the dense matrix, its factorisation and the proof of its smallest eigenvalue, in float64."""
    p = operator.size
    operations = operator.dense_operations() + _PRIMAL_LOSS * 2 * 2 * p**3 / 3
    return Cost(seconds(operations + _answers(operator), operator.device), 3 * 8 * p * p)


def dual_cost(operator: LinearOperator, factor: FactoredOperator, *, with_gram: bool = True) -> DualCost:
    """Of the Gram matrix and its factorisation.

    Args:
        operator: the curvature.
        factor: of its data term.
        with_gram: count the formation of the Gram matrix as well, for which factored gradients may first
            have to be proved right.
    """
    m, precision = factor.rank, dual_precision(factor)
    products = m**3 / 3 + (factor.gram_operations() if with_gram else 0.0)
    operations = products * precision.itemsize / 4 + 2 * _answers(operator)
    needed = m * m * precision.itemsize
    return DualCost(seconds(operations, factor.device), needed, m, precision, operations)


def dual_precision(factor: FactoredOperator) -> torch.dtype:
    """Of the Gram matrix and its factor."""
    return factor.dtype if factor.rank > _DOUBLE_SIZE else torch.float64


def kronecker_cost(data: GaussNewtonOperator) -> Cost:
    """Of EK-FAC: two passes over the training set, and the eigenvectors of both sides of every layer."""
    engine = data.engine
    roots = data.roots.each if data.roots.each <= EXACT_ROOTS else 1
    passes = 2 * engine.objective.n * (2 + 2 * roots + _MOMENTS) * engine.operations_each
    bases, held = 0.0, 0
    for value in engine.objective.parameters.values.values():
        if value.ndim < 2:
            continue
        shape = value.shape
        for side in (shape[0], shape.numel() // shape[0]):
            if side <= MAX_SIDE:
                bases += 2 * _EIGH * side**3
                held += 3 * 8 * side**2
        held += 2 * shape.numel() * 8
    return Cost(seconds(passes + bases + _answers(data), data.device), held)


def iteration_cost(operator: LinearOperator) -> Cost:
    """Of one iteration of conjugate gradients for one query."""
    vectors = 10 * operator.size * operator.dtype.itemsize
    return Cost(seconds(operator.product_operations(), operator.device), vectors)


def _answers(operator: LinearOperator) -> float:
    """Operations of the first answers, their residuals and the spectrum included."""
    return _QUERIES * _PRODUCTS * operator.product_operations()


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.2g} {name}"
    return "less than 1 MB"
