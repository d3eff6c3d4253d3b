"""Low-rank least squares with entry-wise weights, where entries that fit badly may be given up."""

from __future__ import annotations

import torch
from torch import Tensor


class WeightedFit:
    """Separable terms `leftᵀ right` for `1/(Λ/λ + 1)`, least squares in the weights of the scores' error.

    Works in scaled variables: what rows and columns weigh is taken out, so that all numbers are near one
    whatever the range of the eigenvalues.

    Attributes:
        inverse: `1/(Λ/λ + 1)`, in the units of the damping.
        row, column: the scaling, `scaled = row · inverse · column`; terms of `scaled` divided by them are
            terms of `inverse`.
        weights: of the squared residuals of `scaled`.
        unit: scale that was taken out of the weights' square root; 0 when all weights are.
        total: weighted sum of squares of the inverse.
        allowed: weighted sum of squares that the residual may have.
    """

    def __init__(self, eigenvalues: Tensor, damping: float, weights: Tensor | None, rtol: float):
        self.damping = damping
        self.inverse = 1 / (eigenvalues / damping + 1)
        root = eigenvalues if weights is None else weights.sqrt()
        self.unit = float(root.max())  # the weights are used in units of their maximum
        root = root / self.unit if self.unit > 0 else torch.ones_like(root)
        # A floor where no gradient is expected keeps the fit of every row and column determined.
        row, column = root.mean(1) / root.mean(), root.mean(0)
        self.row = row.clamp(min=1e-9 * float(row.max()))
        self.column = column.clamp(min=1e-9 * float(column.max()))
        self.scaled = self.row[:, None] * self.inverse * self.column
        self.weights = (root / self.row[:, None] / self.column).square()
        self.total = float((self.weights * self.scaled.square()).sum())
        self.allowed = rtol**2 * self.total
        self.transposed = eigenvalues.shape[0] < eigenvalues.shape[1]
        self.vectors: Tensor | None = None

    def start(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best `rank` terms in the separable weights: leading singular vectors of the scaled inverse."""
        matrix = self.scaled.T if self.transposed else self.scaled
        if self.vectors is None or self.vectors.shape[1] < rank:
            self.vectors = _leading_vectors(matrix, rank)
        vectors = self.vectors[:, :rank]
        image = matrix @ vectors
        return (vectors.T, image.T) if self.transposed else (image.T, vectors.T)

    def energy(self, left: Tensor, right: Tensor) -> Tensor:
        """Each entry's share in the variance of the scores' error."""
        residual = self.scaled - left.T @ right
        return residual.square_().mul_(self.weights)

    def refine(self, left: Tensor, right: Tensor, sweeps: int) -> tuple[int, Tensor, Tensor]:
        """Alternating least squares that gives up the entries too far off: `(entries to add, left, right)` of
        the best sweep. The entries are counted from a histogram, to within a few per cent."""
        best = self.scaled.numel() + 1, left, right
        for sweep in range(sweeps + 1):
            energy = self.energy(left, right)
            entries, threshold = _count(energy, self.allowed)
            if entries < best[0]:
                best = entries, left, right
            if sweep == sweeps or entries == 0 or len(left) == 0:
                break
            scale = 3 * threshold
            weights = energy.add_(scale).reciprocal_().mul_(scale).square_().mul_(self.weights).add_(1e-8)
            # Orthonormal fixed sides keep the normal equations well conditioned.
            right = torch.linalg.qr(right.T)[0].T
            left = _solve(self.scaled, weights, right)
            left = torch.linalg.qr(left.T)[0].T
            right = _solve(self.scaled.T, weights.T, left)
        return best

    def smallest_rank(self, limit: int) -> tuple[Tensor, Tensor]:
        """Separable terms alone: the fewest, by bisection, that reach the tolerance, or `limit` of them."""
        enough, too_few = limit, 0
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            reached = float(self.energy(*self.start(middle)).sum()) <= self.allowed
            enough, too_few = (middle, too_few) if reached else (enough, middle)
        return self.start(enough)


def _solve(target: Tensor, weights: Tensor, fixed: Tensor) -> Tensor:
    """`argmin_X Σ weights (target − Xᵀ fixed)²`, row by row of `target`, from the normal equations."""
    rank = len(fixed)
    first, second = torch.triu_indices(rank, rank, device=fixed.device)
    packed = weights @ (fixed[first] * fixed[second]).T
    normal = packed.new_empty(len(packed), rank, rank)
    normal[:, first, second] = packed
    normal[:, second, first] = packed
    ridge = 1e-13 * normal.diagonal(dim1=1, dim2=2).mean(1)
    normal.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    return torch.linalg.solve(normal, (weights * target) @ fixed.T).T


def _leading_vectors(matrix: Tensor, count: int) -> Tensor:
    """Orthonormal leading right singular vectors, at least `count`."""
    size = matrix.shape[1]
    if size <= 1024 or 4 * count > size:
        return torch.linalg.eigh(matrix.T @ matrix)[1].flip(1)
    # Few of many: subspace iteration from a fixed start, the same on every device.
    start = torch.randn(size, count + 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = start.to(matrix.device)
    for _ in range(3):
        vectors = torch.linalg.qr(matrix.T @ (matrix @ vectors))[0]
    rotation = torch.linalg.svd(matrix @ vectors, full_matrices=False)[2]
    return vectors @ rotation.T


def _count(energy: Tensor, allowed: float) -> tuple[int, float]:
    """How many of the largest entries must go for the rest to sum to `allowed` at most, and the smallest of
    them: both from a histogram of eight bins an octave, so never too few, and too many by a bin at most."""
    largest = float(energy.max())
    if largest == 0.0:
        return 0, 0.0
    bins = (energy.flatten() * (1 / largest)).clamp_(min=1e-60).log2_().mul_(-8).long()
    sums = torch.bincount(bins, weights=energy.flatten()).flip(0)
    counts = torch.bincount(bins).flip(0)
    kept = int((sums.cumsum(0) <= allowed).sum())
    if kept == len(sums):
        return 0, largest
    return int(counts[kept:].sum()), largest * 2 ** (-(len(sums) - kept) / 8)
