"""Dense factorisation in float64, in the smaller of two spaces."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from whence.errors import InputError, NotPositiveDefiniteError, UnsupportedError
from whence.linalg import DenseOperator, FactoredOperator, LinearOperator, lanczos_spectrum, split_diagonal
from whence.memory import memory_errors
from whence.solvers.base import PreparedSolver, Solution, Solver, solution_from
from whence.solvers.preconditioner import InverseOperator

Space = Literal["auto", "primal", "dual"]
Method = Literal["cholesky", "eigh"]
# Residual corrections after the factorisation: the factors are float64, the operator may be float32.
_REFINEMENTS = 2
# A residual of this many units of rounding cannot be improved.
_ROUNDING = 100
# A float64 matrix up to this size (32 MB) is kept for residuals.
_KEEP_SIZE = 2048
# A proof of λ_min > μ by factorising C − μI uses this share of the estimate.
_PROOF_SHARE = 0.5
# A declared bound below this share of the largest diagonal entry is worth an attempt to prove more.
_LOW = 1e-6


class Exact(Solver):
    """`C_λ⁻¹` from a Cholesky factorisation or an eigendecomposition in float64.

    Args:
        method: `"cholesky"`, or `"eigh"`, which costs about ten times more and knows every eigenvalue.
        space: `"primal"` factorises the `p × p` matrix. `"dual"` uses `C = D + FFᵀ/n` with `D` the diagonal
            of damping and weight decay (Woodbury): an `m × m` matrix, `m` = examples × outputs, whatever `p`
            is. `"auto"` takes the smaller one that exists, for `"eigh"` the primal one.

    Cost: `p³/3` operations and `8p²` bytes (primal), `m³/3` and `8m²` plus the rows of `F` (dual).
    """

    name = "exact"

    def __init__(self, method: Method = "cholesky", space: Space = "auto"):
        if method not in ("cholesky", "eigh"):
            raise InputError(f"method={method!r}: expected 'cholesky' or 'eigh'")
        if space not in ("auto", "primal", "dual"):
            raise InputError(f"space={space!r}: expected 'auto', 'primal' or 'dual'")
        if method == "eigh" and space == "dual":
            raise InputError(
                "method='eigh' works in the primal space only; use method='cholesky' for space='dual'"
            )
        self.method = method
        self.space = space

    def settings(self) -> dict[str, Any]:
        return {"solver": self.name, "method": self.method, "space": self.space}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        factor, diagonal = dual_form(operator)
        if self.space == "dual" and factor is None:
            raise UnsupportedError(
                "space='dual' needs C = diagonal + FFᵀ/n with a positive diagonal: a GGN or Fisher with "
                "damping or weight decay "
                "on every parameter. Use curvature='ggn' with damping > 0, or space='primal'."
            )
        dual = self.space == "dual" or (self.space == "auto" and self.method == "cholesky")
        if factor is not None and dual and (self.space == "dual" or factor.rank < operator.size):
            return _Dual(operator, factor, diagonal)
        return _PrimalEigh(operator) if self.method == "eigh" else _PrimalCholesky(operator)


def dual_form(operator: LinearOperator) -> tuple[FactoredOperator | None, Float[Tensor, " p"]]:
    """`(F, D)` if `operator = D + FFᵀ/n` with `D > 0` diagonal and `FFᵀ` semi-definite; `(None, D)`
    otherwise."""
    diagonal = split_diagonal(operator)[1]
    return (dual_factor(operator) if bool((diagonal > 0).all()) else None), diagonal


def dual_factor(operator: LinearOperator) -> FactoredOperator | None:
    """`F` if `operator = D + FFᵀ/n` with `FFᵀ` semi-definite and any diagonal `D`."""
    rest = split_diagonal(operator)[0]
    factor = rest[0] if len(rest) == 1 and isinstance(rest[0], FactoredOperator) else None
    if factor is None or not factor.fixed_rank or factor.lower_bound < 0:
        return None
    return factor


class _Direct(PreparedSolver):
    """A factorisation, refined against the operator's own products."""

    name = "Exact"

    @abstractmethod
    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """`C_λ⁻¹` of the columns by the factorisation."""

    def _residual(self, rhs: Float[Tensor, "p k"], x: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return rhs - self.operator.matmat(x)

    def as_preconditioner(self) -> LinearOperator:
        return InverseOperator(self._apply_inverse, self.operator)

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        x = self._apply_inverse(rhs)
        residual = self._residual(rhs, x)
        rounding = _ROUNDING * torch.finfo(rhs.dtype).eps * rhs.norm(dim=0)
        for _ in range(_REFINEMENTS):
            if bool((residual.norm(dim=0) <= rounding).all()):
                break
            better = x + self._apply_inverse(residual)
            left = self._residual(rhs, better)
            if not bool((left.norm(dim=0) < 0.5 * residual.norm(dim=0)).any()):
                break
            keep = left.norm(dim=0) < residual.norm(dim=0)
            x, residual = torch.where(keep, better, x), torch.where(keep, left, residual)
        k = rhs.shape[1]
        # Where only rounding is left, its estimate is not to be had from the residual.
        known = bool((residual.norm(dim=0) <= rounding).all())
        return solution_from(
            self.operator,
            rhs,
            x,
            converged=torch.ones(k, dtype=torch.bool),
            reason="",
            iterations=torch.zeros(k, dtype=torch.long),
            error_directions=rhs.new_zeros(0, *rhs.shape) if known else self._apply_inverse(residual)[None],
            residual=residual,
        )


class _PrimalCholesky(_Direct):
    def __init__(self, operator: LinearOperator):
        with memory_errors(
            "factorising the dense curvature", "Use solver=CG(), or attribute fewer parameters."
        ):
            dense = operator.to_dense().double()
            factor, info = torch.linalg.cholesky_ex(dense)
            if int(info) != 0:
                raise _indefinite(torch.linalg.eigvalsh(dense))
            bound, proven = _proven_lower_bound(operator, dense, factor)
        super().__init__(operator, bound, proven)
        self._factor = factor
        self._dense = dense if operator.size <= _KEEP_SIZE else None
        self.notes = {"space": "primal", "method": "cholesky", "size": operator.size}

    def _residual(self, rhs: Float[Tensor, "p k"], x: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        if self._dense is None:
            return super()._residual(rhs, x)
        return (rhs.double() - self._dense @ x.double()).to(rhs.dtype)

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return torch.cholesky_solve(rhs.double(), self._factor).to(rhs.dtype)


class _PrimalEigh(_Direct):
    def __init__(self, operator: LinearOperator):
        with memory_errors(
            "decomposing the dense curvature", "Use solver=CG(), or attribute fewer parameters."
        ):
            values, self._vectors = torch.linalg.eigh(operator.to_dense().double())
        if values[0] <= 0:
            raise _indefinite(values)
        # eigh is backward stable: each eigenvalue is right to a small multiple of eps·‖C‖ (Weyl).
        rounding = operator.size * torch.finfo(torch.float64).eps * float(values[-1])
        super().__init__(operator, max(operator.lower_bound, float(values[0]) - rounding), True)
        self._values = values
        self.notes = {
            "space": "primal",
            "method": "eigh",
            "size": operator.size,
            "smallest_eigenvalue": float(values[0]),
            "largest_eigenvalue": float(values[-1]),
        }

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return (self._vectors @ ((self._vectors.T @ rhs.double()) / self._values[:, None])).to(rhs.dtype)


class _Dual(_Direct):
    """`(D + FFᵀ/n)⁻¹ = D⁻¹ − D⁻¹F (nI + FᵀD⁻¹F)⁻¹ FᵀD⁻¹`."""

    def __init__(self, operator: LinearOperator, factor: FactoredOperator, diagonal: Float[Tensor, " p"]):
        super().__init__(operator, max(operator.lower_bound, float(diagonal.min())), True)
        self._operator_factor = factor
        self._diagonal = diagonal
        with memory_errors(
            "factorising the Gram matrix of the dual space",
            "Use solver=CG(), fewer training examples, or a higher memory=.",
        ):
            gram = factor.factor_gram(1 / diagonal)
            assert factor.n_examples is not None
            gram.diagonal().add_(factor.n_examples)
            self._factor = torch.linalg.cholesky(gram)
        self.notes = {"space": "dual", "method": "cholesky", "size": gram.shape[0]}

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        scaled = rhs / self._diagonal[:, None]
        inner = torch.cholesky_solve(self._operator_factor.factor_adjoint(scaled).double(), self._factor)
        return scaled - self._operator_factor.factor_apply(inner) / self._diagonal[:, None]


def _indefinite(values: Float[Tensor, " p"]) -> NotPositiveDefiniteError:
    """The error for a spectrum (ascending) that is not safely positive."""
    smallest = float(values[0])
    # At the least, what rounding of the largest eigenvalue can hide.
    rounding = len(values) * torch.finfo(torch.float64).eps * float(values.abs().max())
    repair = max(-1.1 * smallest, 10 * rounding, torch.finfo(torch.float64).tiny)
    return NotPositiveDefiniteError(
        f"the curvature is not positive definite: its most negative eigenvalue is {smallest:.4g}. The model "
        f"is not at a strict minimum of this objective. Add at least damping={repair:.3g} to what is set "
        "now, use curvature='ggn', or train to convergence.",
        eigenvalue=smallest,
        damping=repair,
    )


def _proven_lower_bound(
    operator: LinearOperator, dense: Float[Tensor, "p p"], factor: Float[Tensor, "p p"]
) -> tuple[float, bool]:
    """A lower bound of the eigenvalues: the operator's own, or a better one proved by factorising
    `C − μI`."""
    declared = max(operator.lower_bound, 0.0)
    if declared > _LOW * float(dense.diagonal().max()):
        return declared, True
    spectrum = lanczos_spectrum(_Inverse(dense, factor), steps=20)
    bound = _PROOF_SHARE / max(spectrum.largest_upper, torch.finfo(torch.float64).tiny)
    shifted = dense.clone()
    shifted.diagonal().sub_(bound)
    _, info = torch.linalg.cholesky_ex(shifted)
    if int(info) == 0:
        return max(bound, declared), True
    return (declared, True) if declared > 0 else (bound / 10, False)


class _Inverse(DenseOperator):
    """`C⁻¹` from its Cholesky factor, for a Lanczos run on it."""

    def __init__(self, dense: Float[Tensor, "p p"], factor: Float[Tensor, "p p"]):
        super().__init__(dense)
        self._factor = factor

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return torch.cholesky_solve(vectors, self._factor)
