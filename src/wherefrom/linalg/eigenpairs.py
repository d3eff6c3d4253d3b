"""The largest or smallest eigenvalues of an operator with their eigenvectors: block Lanczos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import choice, whole
from wherefrom.errors import InputError
from wherefrom.linalg.estimates import dense_matrix
from wherefrom.linalg.krylov import BlockKrylov
from wherefrom.linalg.operators import LinearOperator
from wherefrom.progress import progress_bar

BLOCK = 2
WHICH = ("largest", "smallest")
# What rounding in the products leaves of a residual, relative to the norm, in units of the dtype's precision.
_ROUNDING = 20
# Added to the residuals: what rounding in the products and in the basis leaves, in the same units.
_ALLOWANCE = 50
# In the dense part of a spectrum a value is near some eigenvalue from the start, which tells nothing of the
# end.
_LEAST_PRODUCTS = 24


@dataclass(frozen=True)
class Eigenpairs:
    """Extreme eigenpairs of a symmetric operator.

    Attributes:
        values: eigenvalues, the most extreme first, in the units of the operator; float64, on the CPU.
        vectors: `(p, k)`, orthonormal columns in the operator's dtype and on its device.
        residuals: bounds of `‖C v − λ v‖`, an allowance for rounding included: an eigenvalue lies within this
            distance of each value; float64.
        products: matrix-vector products spent.
        converged: whether every residual, but for that allowance, is within the tolerance.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "p k"]
    residuals: Float[Tensor, " k"]
    products: int
    converged: bool


def extreme_eigenpairs(
    operator: LinearOperator,
    k: int = 10,
    *,
    which: Literal["largest", "smallest"] = "largest",
    tolerance: float = 1e-6,
    max_products: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The `k` algebraically largest (or smallest) eigenvalues of `operator`, multiplicities counted.

    Block Lanczos with full reorthogonalisation, a random first block, and thick restarts that keep the best
    Ritz vectors; small matrices are float64 whatever the operator's dtype. A value found as often as the
    block is wide may be there more often: then the search goes on in a fresh random block, until one brings
    nothing new. An operator no larger than the basis is formed and decomposed.

    Args:
        operator: symmetric, any definiteness.
        k: how many.
        which: `"largest"` or `"smallest"`, with signs: the smallest of an indefinite matrix are negative.
        tolerance: of the residuals, relative to the largest Ritz value in modulus; never taken below
            20 roundings of the operator's dtype. An eigenvalue's own error is of the order of the squared
            residual over the gap to the others.
        max_products: to spend; `max(500, 50 k)` unless given. Running out is no error: see `converged`.
        seed: of the random block.

    Raises:
        InputError: `k` below 1 or above the operator's size, an unknown `which`, a tolerance that is not
            positive, or `max_products` below `k + 2`.
        NonFiniteError: a product with NaN or infinity.

    Cost: the products and about `max(4k, 48)` vectors of size `p`, restarts included.

    Source: Golub & Underwood 1977, *The block Lanczos method for computing eigenvalues*; Wu & Simon 2000,
    *Thick-restart Lanczos method for large symmetric eigenvalue problems*, SIAM J. Matrix Anal. Appl. 22.
    """
    limit = _check(operator, k, which, tolerance, max_products)
    capacity = max(4 * k, 48)
    if operator.size <= min(capacity + BLOCK, limit):
        return _dense(operator, k, which, tolerance)
    sign = 1.0 if which == "largest" else -1.0
    search = BlockKrylov(operator, min(capacity, operator.size), torch.Generator().manual_seed(seed))
    target = max(tolerance, _ROUNDING * torch.finfo(operator.dtype).eps)
    search.begin(BLOCK)
    confirmed: Tensor | None = None
    rounds = 0
    with progress_bar(f"{k} {which} eigenvalues", limit) as bar:
        while True:
            bar.advance(search.width)
            search.expand()
            if search.columns < k or search.products < min(_LEAST_PRODUCTS, limit - search.width):
                continue
            values, coordinates = search.ritz(sign)
            residuals = search.residuals(coordinates[:, : k + 1])
            error = target * search.norm
            if search.complete or search.products + search.width > limit:
                break
            # Residuals of what was confirmed before add up: each round has half of what is left.
            crowded = _crowded(values[:k], 2 * error)
            settled = bool((residuals[:k] <= (error * (1 - 0.5 ** (1 + rounds)) if crowded else error)).all())
            if settled and confirmed is not None and search.columns > k:
                # Nothing new may be on its way up: the next value must be known to stay below.
                settled = sign * float(values[k] - values[k - 1]) + float(residuals[k]) <= error
            if settled:
                news = confirmed is None or bool(((values[:k] - confirmed).abs() > error).any())
                if not (crowded and news):
                    break
                confirmed, rounds = values[:k], rounds + 1
                search.restart(coordinates[:, :k], values, fresh=BLOCK)
            elif search.full:
                keep = min(k + max(BLOCK, (search.columns - k) // 3), search.columns - BLOCK)
                search.restart(coordinates[:, :keep], values)
    bounds = residuals[:k] + _ALLOWANCE * torch.finfo(operator.dtype).eps * search.norm
    vectors = search.combine(coordinates[:, :k])
    return Eigenpairs(values[:k], vectors, bounds, search.products, bool((residuals[:k] <= error).all()))


def _crowded(values: Tensor, width: float) -> bool:
    """Whether a value occurs as often as a random block can show it: there may be more of it."""
    return len(values) >= BLOCK and bool(((values[: 1 - BLOCK] - values[BLOCK - 1 :]).abs() <= width).any())


def _measure(vectors: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Rayleigh quotients and residual norms, summed in float64, column by column."""
    values, residuals = [], []
    for vector, its_image in zip(vectors.T, image.T, strict=True):
        vector, its_image = vector.double(), its_image.double()
        square = float(vector @ vector)
        value = float(vector @ its_image) / square
        values.append(value)
        residuals.append(float((its_image - value * vector).norm()) / math.sqrt(square))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(residuals, dtype=torch.float64)


def _dense(operator: LinearOperator, k: int, which: str, tolerance: float) -> Eigenpairs:
    """A small operator, by its matrix."""
    matrix = dense_matrix(operator)
    every, basis = torch.linalg.eigh(matrix)
    chosen = basis[:, -k:].flip(1) if which == "largest" else basis[:, :k]
    vectors = chosen.to(operator.dtype)
    values, residuals = _measure(vectors, matrix @ vectors.double())
    norm = float(every.abs().max())
    target = max(tolerance, _ROUNDING * torch.finfo(operator.dtype).eps) * norm
    bounds = residuals + _ALLOWANCE * torch.finfo(torch.float64).eps * norm
    return Eigenpairs(values, vectors, bounds, operator.size, bool((residuals <= target).all()))


def _check(operator: LinearOperator, k: int, which: str, tolerance: float, max_products: int | None) -> int:
    """Refuse what cannot be asked; the products that may be spent."""
    choice("which", which, WHICH)
    whole("k", k, 1)
    if k > operator.size:
        raise InputError(f"k={k}: the operator has size {operator.size}; expected 1 ≤ k ≤ {operator.size}")
    if not tolerance > 0 or not math.isfinite(tolerance):
        raise InputError(
            f"tolerance={tolerance!r}: expected a positive number, relative to the largest eigenvalue"
        )
    if max_products is None:
        return max(500, 50 * k)
    whole("max_products", max_products, k + BLOCK)
    return max_products
