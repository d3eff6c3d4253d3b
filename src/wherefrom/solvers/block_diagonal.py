"""The exact inverse of every layer's own block of the curvature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.layer_blocks import layer_factors, layer_matrices, roots_each
from wherefrom.errors import (
    NonFiniteError,
    NotPositiveDefiniteError,
    OutOfMemoryError,
    UnsupportedError,
)
from wherefrom.gradients import Coverage, ExampleGradients, LayerGradients
from wherefrom.layers import Block
from wherefrom.linalg import LinearOperator
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.fixed_inverse import OneApplication
from wherefrom.solvers.floor import eigenvalue_floor
from wherefrom.solvers.kronecker import data_term, layer_gradients
from wherefrom.solvers.pairing import Pairing
from wherefrom.solvers.repair import round_up

_MEMORY_SHARE = 0.8
# A squared pivot below this share of the largest diagonal entry is rounding.
_SINGULAR = 1e-13


class BlockDiagonal(Solver):
    """`blockdiag(C_λ)⁻¹` with one block for each layer, none of them approximated: what EK-FAC and K-FAC
    approximate, and a measure of what these lose by their Kronecker form.

    Terms between layers are left out, and the error is measured: by the residual against the full operator,
    and by the best multiple of the block inverse's own answer to that residual.
    `CG(preconditioner=BlockDiagonal())` puts them back.

    Args:
        max_size: of the systems that are factorised. A block of `m` parameters takes the smaller one of `m`
            and `n r`, `r` gradients an example (Woodbury; damping or weight decay on all of it required).
        strict: refuse layers that no rule covers and that are too large for explicit gradients.

    Cost: per block `2 n r m² + m³/3` operations and `8 m²` bytes, or `(n r)² m + (n r)³/3` and `8 n r m`.

    Raises:
        InputError: `max_size` is no positive integer.
        UnsupportedError: (`prepare`) the curvature is no Gauss-Newton or Fisher matrix, or both systems of a
            block are larger than `max_size`.
        OutOfMemoryError: (`prepare`) the blocks do not fit the memory budget.
        NotPositiveDefiniteError: (`prepare`) a block is singular.
    """

    name = "block_diagonal"
    layers_apart = True

    def __init__(self, max_size: int = 4096, *, strict: bool = True):
        self.max_size = whole("max_size", max_size, 1)
        self.strict = strict

    def settings(self) -> dict[str, Any]:
        return {"solver": self.name, "max_size": self.max_size, "strict": self.strict}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        data, diagonal = data_term(operator, f"solver={self.name!r} approximates")
        layers = layer_gradients(data, self.strict)
        rank = layers.objective.n * roots_each(data, layers)
        damping = [diagonal[block.index.reshape(-1)].double() for block in layers.blocks]
        dual = [self._dual(block, amount, rank) for block, amount in zip(layers.blocks, damping)]
        _require_room(layers, dual, rank)
        inverses = _inverses(data, layers, damping, dual)
        return PreparedBlockDiagonal(operator, layers, inverses, sum(dual), seed)

    def _dual(self, block: Block, damping: Float[Tensor, " m"], rank: int) -> bool:
        """Whether the dual system of a block is the one to factorise."""
        dual = rank < block.size and bool((damping > 0).all())
        least = rank if dual else block.size
        if least > self.max_size:
            raise UnsupportedError(
                f"block {block.name!r} has {block.size:,} parameters, and examples × roots are {rank:,}; "
                f"solver='block_diagonal' factorises systems up to max_size={self.max_size:,}. Raise it if "
                "time and memory allow, leave the layer out with parameters=, or use EKFAC()."
            )
        return dual


@dataclass(frozen=True)
class _Primal:
    """`(B + D)⁻¹` from its Cholesky factor."""

    block: Block
    factor: Float[Tensor, "m m"]

    def apply(self, columns: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        return torch.cholesky_solve(columns, self.factor)


@dataclass(frozen=True)
class _Dual:
    """`(FᵀF + D)⁻¹ = D^{-1/2} (I − F̃ᵀ (I + F̃F̃ᵀ)⁻¹ F̃) D^{-1/2}` with `F̃ = F D^{-1/2}`."""

    block: Block
    factor: Float[Tensor, "c c"]
    rows: Float[Tensor, "c m"]
    root: Float[Tensor, " m"]

    def apply(self, columns: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        scaled = columns / self.root[:, None]
        inner = torch.cholesky_solve(self.rows @ scaled, self.factor)
        return (scaled - self.rows.T @ inner) / self.root[:, None]


class PreparedBlockDiagonal(OneApplication):
    """Inverse blocks bound to a model.

    Attributes:
        layers: factored gradients that the blocks were made of.
    """

    name = "BlockDiagonal"

    def __init__(
        self,
        operator: LinearOperator,
        layers: LayerGradients,
        inverses: Sequence[_Primal | _Dual],
        dual: int,
        seed: int,
    ):
        bound, proven = eigenvalue_floor(operator, seed)
        super().__init__(operator, bound, proven)
        self.layers: LayerGradients = layers
        self._inverses = list(inverses)
        self.notes = {"blocks": len(inverses), "dual": dual, "bounded": True}

    def coverage(self) -> list[Coverage]:
        return self.layers.coverage()

    def plan(self, pairing: Pairing, gradients: ExampleGradients) -> Any:
        raise UnsupportedError(
            f"solver={pairing.solver!r} multiplies solutions with explicit gradients, so there is no plan to "
            "choose; coverage() says how its layers are attributed. Use solver=EKFAC() for a plan."
        )

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        made = torch.empty_like(rhs, memory_format=torch.contiguous_format)
        for inverse in self._inverses:
            index = inverse.block.index.reshape(-1)
            made[index] = inverse.apply(rhs[index].double()).to(rhs.dtype)
        return made


def _require_room(layers: LayerGradients, dual: Sequence[bool], rank: int) -> None:
    needed = sum(
        8 * (rank * (rank + block.size) if other else block.size**2)
        for block, other in zip(layers.blocks, dual)
    )
    if needed > _MEMORY_SHARE * layers.objective.memory:
        raise OutOfMemoryError(
            f"the blocks of {len(dual)} layers need {needed / 1e9:.1f} GB, more than the memory budget "
            f"({layers.objective.memory / 1e9:.1f} GB) allows. Raise memory=, attribute fewer layers with "
            "parameters=, or use EKFAC()."
        )


def _inverses(
    data: GaussNewtonOperator,
    layers: LayerGradients,
    damping: Sequence[Tensor],
    dual: Sequence[bool],
) -> list[_Primal | _Dual]:
    made: dict[int, _Primal | _Dual] = {}
    matrices = [position for position, other in enumerate(dual) if not other]
    for position, matrix in zip(matrices, layer_matrices(data, layers, matrices)):
        block = layers.blocks[position]
        mean = float(matrix.diagonal().mean())
        matrix.diagonal().add_(damping[position])
        made[position] = _Primal(block, _cholesky(matrix, block, mean))
    factors = [position for position, other in enumerate(dual) if other]
    for position, rows in zip(factors, layer_factors(data, layers, factors)):
        block, root = layers.blocks[position], damping[position].sqrt()
        scaled = rows / root
        gram = scaled @ scaled.T
        gram.diagonal().add_(1)
        made[position] = _Dual(
            block, _cholesky(gram, block, float(rows.square().sum()) / block.size), scaled, root
        )
    return [made[position] for position in range(len(dual))]


def _cholesky(matrix: Float[Tensor, "m m"], block: Block, mean: float) -> Float[Tensor, "m m"]:
    """The factor, or an error that names the block and a damping of a tenth of its mean eigenvalue."""
    if not bool(torch.isfinite(matrix).all()):
        raise NonFiniteError(
            f"block {block.name!r}: its curvature holds NaN or infinity; gradients overflow at the trained "
            "parameters. Use dtype=torch.float64 or leave the layer out with parameters=."
        )
    largest = float(matrix.diagonal().max()) if matrix.numel() else 1.0
    factor, info = torch.linalg.cholesky_ex(matrix)
    smallest = float(factor.diagonal().square().min()) if matrix.numel() else 1.0
    if int(info) != 0 or smallest <= _SINGULAR * largest:
        repair = round_up(0.1 * mean) if mean > 0 else 1.0
        raise NotPositiveDefiniteError(
            f"damping: the curvature of block {block.name!r} is singular. Use damping='auto', "
            f"RelativeDamping(0.1), or at least damping={repair:.2g}.",
            eigenvalue=0.0,
            damping=repair,
        )
    return factor
