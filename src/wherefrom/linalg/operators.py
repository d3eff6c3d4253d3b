"""Symmetric operators `C: R^p → R^p` that are applied to `k` columns at once and know what is proven of
them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.progress import progress_bar

# Columns of the identity applied at once when an operator has no better way to become dense.
_DENSE_COLUMNS = 64


class LinearOperator(ABC):
    """A real symmetric operator on `R^p`.

    Attributes:
        size: `p`.
        dtype, device: of the vectors it takes and returns.
        lower_bound: a *proven* lower bound of the eigenvalues, `-inf` when nothing is proven. `0` for a
            Gauss-Newton matrix of a convex loss; damping and weight decay add to it.
        n_examples: number of training examples averaged inside, `None` for an operator without data.
    """

    n_examples: int | None = None

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, lower_bound: float = -math.inf):
        self.size = size
        self.dtype = dtype
        self.device = device
        self.lower_bound = lower_bound

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size)

    @abstractmethod
    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """`C V` for `k` columns at once. Cost: `k` products, sharing everything that does not depend on
        `V`."""

    def matvec(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """`C v`: the case `k = 1` of `matmat`."""
        return self.matmat(vector[:, None])[:, 0]

    def to_dense(self) -> Float[Tensor, "p p"]:
        """The `p × p` matrix, always in float64, whatever the dtype of the products it is made of: what is
        done with a matrix (a factorisation, eigenvalues) needs the digits. Not to be written to: an operator
        that holds its matrix in float64 returns that. Cost: `p` products and `p²` numbers unless a subclass
        knows better."""
        dense = torch.empty(self.size, self.size, dtype=torch.float64, device=self.device)
        with progress_bar("matrix of the curvature", self.size) as bar:
            for start in range(0, self.size, _DENSE_COLUMNS):
                stop = min(start + _DENSE_COLUMNS, self.size)
                columns = torch.zeros(stop - start, self.size, dtype=self.dtype, device=self.device)
                columns[torch.arange(stop - start), torch.arange(start, stop)] = 1
                dense[:, start:stop] = self.matmat(columns.T)
                bar.advance(stop - start)
        return dense.add_(dense.T.clone()).div_(2)

    def product_operations(self) -> float:
        """Operations of a product with one column, about, in those of a matrix product in float32 that take
        as long (one in float64 counts as two): from sizes, never measured."""
        return self.size**2 * self.dtype.itemsize / 2

    def dense_operations(self) -> float:
        """Operations that `to_dense` takes, about, in the same unit."""
        return self.size * self.product_operations()

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        """The same operator averaged over the examples `indices` only: unbiased for uniform draws.

        An operator without data returns itself.
        """
        return self

    def compact(self) -> LinearOperator:
        """The same operator in the form that is cheapest to apply again and again: itself, or a matrix small
        enough to be formed. Without data: `sampled` no longer means anything."""
        return self

    def damped(self, damping: float) -> LinearOperator:
        """`C + λI`."""
        if not (math.isfinite(damping) and damping >= 0):
            raise InputError(
                f"damping={damping!r}: expected a finite number ≥ 0, in the units of the curvature"
            )
        if damping == 0:
            return self
        return self + DiagonalOperator.constant(damping, self)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return SumOperator([self, other])

    def __mul__(self, factor: float) -> LinearOperator:
        return ScaledOperator(self, factor)

    __rmul__ = __mul__


class FactoredOperator(LinearOperator):
    """`C = (1/n) F Fᵀ` for a `p × m` factor `F` that need not be formed: what the dual space of a solver
    needs."""

    rank: int  # m
    # False where the columns change with how examples are batched (sequences padded to the longest of a
    # batch): the factor then has no one form that `factor_apply`, `factor_adjoint` and `factor_gram` share.
    fixed_rank: bool = True

    @abstractmethod
    def factor_apply(self, coefficients: Float[Tensor, "m k"]) -> Float[Tensor, "p k"]:
        """`F U`."""

    @abstractmethod
    def factor_adjoint(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "m k"]:
        """`Fᵀ V`."""

    @abstractmethod
    def factor_gram(
        self, scale: Float[Tensor, " p"], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "m m"]:
        """`Fᵀ diag(scale) F`, formed and returned in `dtype`."""

    def gram_operations(self) -> float:
        """Floating-point operations that `factor_gram` will take, about."""
        return float(self.rank) ** 2 * self.size

    def factor_examples(self) -> Iterator[Float[Tensor, "b r p"]]:
        """`F_iᵀ` for batches of examples: `C = (1/n) Σ_i F_i F_iᵀ`, with `r` columns of `F` an example."""
        assert self.n_examples is not None
        each = self.rank // self.n_examples
        size = max(1, _DENSE_COLUMNS // each)
        for start in range(0, self.n_examples, size):
            stop = min(start + size, self.n_examples)
            columns = torch.arange(start * each, stop * each)
            units = torch.zeros(self.rank, len(columns), dtype=self.dtype, device=self.device)
            units[columns, torch.arange(len(columns))] = 1
            yield self.factor_apply(units).T.unflatten(0, (stop - start, each))

    @property
    def layers(self) -> dict[str, list[slice]]:
        """The parts of `R^p` that belong to one layer, by the layer's name; one for everything where layers
        are not known."""
        return {"": [slice(0, self.size)]}


class DenseOperator(LinearOperator):
    """A matrix that is there already.

    Raises:
        InputError: the matrix is not square.
    """

    def __init__(self, matrix: Float[Tensor, "..."], lower_bound: float = -math.inf):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"matrix has shape {tuple(matrix.shape)}; expected a square one")
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device, lower_bound)
        self.matrix = matrix

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return self.matrix @ vectors

    def to_dense(self) -> Float[Tensor, "p p"]:
        return self.matrix.double()

    def dense_operations(self) -> float:
        return 0.0


class DiagonalOperator(LinearOperator):
    """`diag(d)`: damping, or the curvature of weight decay."""

    def __init__(self, diagonal: Float[Tensor, " p"]):
        super().__init__(diagonal.numel(), diagonal.dtype, diagonal.device, float(diagonal.min()))
        self.diagonal = diagonal

    @classmethod
    def constant(cls, value: float, like: LinearOperator) -> DiagonalOperator:
        """`value · I` with the size, dtype and device of `like`."""
        return cls(torch.full((like.size,), value, dtype=like.dtype, device=like.device))

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return self.diagonal[:, None] * vectors

    def to_dense(self) -> Float[Tensor, "p p"]:
        return torch.diag(self.diagonal.double())

    def product_operations(self) -> float:
        return 0.0


class SumOperator(LinearOperator):
    """`A + B + …`; sums are flattened and diagonals merged."""

    def __init__(self, terms: Sequence[LinearOperator]):
        flat: list[LinearOperator] = []
        for term in terms:
            flat.extend(term.terms if isinstance(term, SumOperator) else [term])
        sizes = {term.size for term in flat}
        if len(sizes) != 1:
            raise InputError(f"operators of sizes {sorted(sizes)} cannot be added; expected one size")
        diagonals = [term.diagonal for term in flat if isinstance(term, DiagonalOperator)]
        self.terms: list[LinearOperator] = [term for term in flat if not isinstance(term, DiagonalOperator)]
        if diagonals:
            self.terms.append(DiagonalOperator(torch.stack(diagonals).sum(0)))
        first = flat[0]
        super().__init__(first.size, first.dtype, first.device, sum(term.lower_bound for term in self.terms))
        counts = [term.n_examples for term in self.terms if term.n_examples is not None]
        self.n_examples = counts[0] if counts else None

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        total = self.terms[0].matmat(vectors)
        for term in self.terms[1:]:
            if isinstance(term, DiagonalOperator):
                total = torch.addcmul(total, vectors, term.diagonal[:, None])
            else:
                total = total + term.matmat(vectors)
        return total

    def to_dense(self) -> Float[Tensor, "p p"]:
        rest, diagonal = split_diagonal(self)
        dense = sum((term.to_dense() for term in rest[1:]), start=rest[0].to_dense()) if rest else None
        if dense is None:
            return torch.diag(diagonal.double())
        dense = dense.clone()
        dense.diagonal().add_(diagonal)
        return dense

    def product_operations(self) -> float:
        return sum(term.product_operations() for term in self.terms)

    def dense_operations(self) -> float:
        return sum(term.dense_operations() for term in self.terms)

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        return SumOperator([term.sampled(indices) for term in self.terms])

    def compact(self) -> LinearOperator:
        terms = [term.compact() for term in self.terms]
        if all(term is own for term, own in zip(terms, self.terms)):
            return self
        if all(isinstance(term, (DenseOperator, DiagonalOperator)) for term in terms):
            return DenseOperator(SumOperator(terms).to_dense().to(self.dtype), self.lower_bound)
        return SumOperator(terms)


class ScaledOperator(LinearOperator):
    """`s · C`."""

    def __init__(self, operator: LinearOperator, factor: float):
        bound = operator.lower_bound * factor if factor > 0 else 0.0 if factor == 0 else -math.inf
        super().__init__(operator.size, operator.dtype, operator.device, bound)
        self.operator = operator
        self.factor = factor
        self.n_examples = operator.n_examples

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return self.factor * self.operator.matmat(vectors)

    def to_dense(self) -> Float[Tensor, "p p"]:
        return self.factor * self.operator.to_dense()

    def product_operations(self) -> float:
        return self.operator.product_operations()

    def dense_operations(self) -> float:
        return self.operator.dense_operations()

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        return ScaledOperator(self.operator.sampled(indices), self.factor)


def split_diagonal(operator: LinearOperator) -> tuple[list[LinearOperator], Float[Tensor, " p"]]:
    """The terms of a sum that are not diagonal, and the diagonal of the rest (zeros if there is none)."""
    terms = operator.terms if isinstance(operator, SumOperator) else [operator]
    diagonal = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
    rest = []
    for term in terms:
        if isinstance(term, DiagonalOperator):
            diagonal = diagonal + term.diagonal
        else:
            rest.append(term)
    return rest, diagonal
