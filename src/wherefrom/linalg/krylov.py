"""A block Krylov space that grows by products, and can be shrunk to its best vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.linalg.estimates import check_finite, normal_columns
from wherefrom.linalg.operators import LinearOperator

# Rows of the tall basis rotated at a time, so that a restart needs no second basis.
_ROWS = 16384


class BlockKrylov:
    """An orthonormal basis `Q` (stored by rows) with `C Q = Q T + N R`: `N` is the next block.

    `T = Qᵀ C Q` is a full small float64 matrix, taken from the projections that reorthogonalisation needs
    anyway; so thick restarts and blocks that lose rank need no special structure.

    Attributes:
        products: matrix-vector products spent.
        columns: vectors in the basis whose images are known.
        width: columns of the next block.
        norm: largest Ritz value in modulus so far.
    """

    def __init__(self, operator: LinearOperator, capacity: int, generator: torch.Generator):
        self.operator = operator
        self.capacity = capacity
        self.generator = generator
        self.products = 0
        self.columns = 0
        self.norm = 0.0
        self._basis = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
        self._small = torch.zeros(0, 0, dtype=torch.float64)
        self.width = 0
        self._coupling = torch.zeros(0, 0, dtype=torch.float64)  # R
        self._dropped = torch.zeros(0, 0, dtype=torch.float64)  # rows of couplings no longer followed

    @property
    def full(self) -> bool:
        """Whether the next block would have no room for the one after it."""
        return self.columns + 2 * self.width > len(self._basis)

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.columns == self.operator.size

    def begin(self, width: int) -> None:
        """A random orthonormal first block."""
        rows = min(self.capacity + width, self.operator.size)
        self._basis = self._basis.new_empty(rows, self.operator.size)
        self._small = torch.zeros(rows, rows, dtype=torch.float64)
        self._dropped = torch.zeros(0, rows, dtype=torch.float64)
        self.width = self._block = width
        self._basis[:width] = self._random(width, 0)

    def expand(self) -> None:
        """Apply the operator to the next block and form the one after it.

        Raises:
            NonFiniteError: NaN or infinity in the product.
        """
        known, width = self.columns, self.width
        stop = known + width
        block = self._basis[known:stop]
        image = self.operator.matmat(block.T).T
        self.products += width
        projection = torch.zeros(stop, width, dtype=torch.float64)
        image = image.clone() if image.data_ptr() == block.data_ptr() else image
        for _ in range(2):
            overlap = self._basis[:stop] @ image.T
            image = torch.addmm(image, overlap.T, self._basis[:stop], alpha=-1)
            projection += overlap.double().cpu()
        check_finite(projection)
        self._small[:stop, known:stop] = projection
        self._small[known:stop, :stop] = projection.T
        self._small[known:stop, known:stop] = (projection[known:] + projection[known:].T) / 2
        self.columns = stop
        self._next(image)

    def _next(self, image: Float[Tensor, "b p"]) -> None:
        """The next block from what the images have outside the basis; random where they have nothing."""
        room = min(len(self._basis) - self.columns, self._block)
        q, r = torch.linalg.qr(image.T)
        left, sizes, right = torch.linalg.svd(r.double().cpu(), full_matrices=False)
        scale = max(float(self._small[: self.columns, : self.columns].abs().max()), float(sizes.max()))
        rounding = 10 * torch.finfo(image.dtype).eps * scale
        rank = min(int((sizes > rounding).sum()), room)
        coupling = sizes[:, None] * right
        self._coupling = coupling[:rank]
        if rank < len(coupling):
            neglected = torch.zeros(len(coupling) - rank, self._dropped.shape[1], dtype=torch.float64)
            neglected[:, self.columns - len(image) : self.columns] = coupling[rank:]
            self._dropped = torch.cat([self._dropped, neglected])
        self.width = room
        if room == 0:
            return
        fresh = (q @ left[:, :rank].to(q)).T
        self._basis[self.columns : self.columns + rank] = self._outside(fresh, self.columns)
        if rank < room:
            self._basis[self.columns + rank : self.columns + room] = self._random(
                room - rank, self.columns + rank
            )

    def ritz(self, sign: float) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
        """Ritz values and their coordinates in the basis: descending for `sign = 1`, ascending for `-1`."""
        values, coordinates = torch.linalg.eigh(self._small[: self.columns, : self.columns])
        self.norm = float(values.abs().max())
        return (values.flip(0), coordinates.flip(1)) if sign > 0 else (values, coordinates)

    def residuals(self, coordinates: Float[Tensor, "m k"]) -> Float[Tensor, " k"]:
        """Bounds of `‖C v − θ v‖` for Ritz vectors, up to rounding, without a product."""
        last = coordinates[self.columns - self._coupling.shape[1] : self.columns]
        given_up = self._dropped[:, : self.columns] @ coordinates
        # Directions given up at different times are not orthogonal to each other.
        return (self._coupling @ last).norm(dim=0) + given_up.abs().sum(0)

    def combine(self, coordinates: Float[Tensor, "m k"]) -> Float[Tensor, "p k"]:
        """Vectors from their coordinates in the basis."""
        return self._basis[: self.columns].T @ coordinates.to(self._basis)

    def restart(
        self, coordinates: Float[Tensor, "m k"], values: Float[Tensor, " m"], *, fresh: int = 0
    ) -> None:
        """Shrink to the given Ritz vectors and go on from the next block, or from `fresh` random columns."""
        keep = coordinates.shape[1]
        last = coordinates[self.columns - self._coupling.shape[1] : self.columns]
        dropped = torch.zeros(len(self._dropped) + len(self._coupling) * bool(fresh), self._dropped.shape[1])
        dropped = dropped.double()
        dropped[: len(self._dropped), :keep] = self._dropped[:, : self.columns] @ coordinates
        rotation = coordinates.T.to(self._basis)
        for start in range(0, self._basis.shape[1], _ROWS):
            rows = slice(start, start + _ROWS)
            self._basis[:keep, rows] = rotation @ self._basis[: self.columns, rows]
        if fresh:
            dropped[len(self._dropped) :, :keep] = self._coupling @ last
            self.width = fresh
            self._basis[keep : keep + fresh] = self._random(fresh, keep)
        else:
            pending = self._basis[self.columns : self.columns + self.width].clone()
            self._basis[keep : keep + self.width] = pending
        self._dropped = dropped
        self._small.zero_()
        self._small[:keep, :keep] = torch.diag(values[:keep])
        self.columns = keep

    def _random(self, count: int, known: int) -> Float[Tensor, "b p"]:
        return self._outside(normal_columns(self.operator, count, self.generator).T, known)

    def _outside(self, rows: Float[Tensor, "b p"], known: int) -> Float[Tensor, "b p"]:
        """Orthonormal rows with the span of `rows` outside the first `known` basis vectors."""
        for _ in range(2):
            rows = torch.addmm(rows, rows @ self._basis[:known].T, self._basis[:known], alpha=-1)
            rows = torch.linalg.qr(rows.T)[0].T
        return rows
