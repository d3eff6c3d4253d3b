"""Dense factorisation in the smaller of two spaces."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.linalg import LinearOperator, lanczos_spectrum
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.direct import Direct
from wherefrom.solvers.dual import PreparedDual, dual_form
from wherefrom.solvers.repair import of_eigenvalues

Space = Literal["auto", "primal", "dual"]
Method = Literal["cholesky", "eigh"]
# A Cholesky factorisation of this size takes a minute or so on two cores.
PRIMAL_LIMIT = 8_000
# A float64 matrix up to this size (32 MB) is kept for residuals.
_KEEP_SIZE = 2048
# A proof of λ_min > μ by factorising C − μI uses this share of the estimate.
_PROOF_SHARE = 0.5
# A declared bound below this share of the largest diagonal entry is worth an attempt to prove more.
_LOW = 1e-6


class Exact(Solver):
    """`C_λ⁻¹` from a Cholesky factorisation or an eigendecomposition.

    Args:
        method: `"cholesky"`, or `"eigh"`, which costs about ten times more and knows every eigenvalue.
        space: `"primal"` factorises the `p × p` matrix. `"dual"` uses `C = D + FFᵀ/n` with `D` the diagonal
            of damping and weight decay (Woodbury): an `m × m` matrix, `m` = examples × roots of their output
            curvature (`C − 1` for a softmax over `C` classes), whatever `p` is. `"auto"` takes the smaller
            one that exists, for `"eigh"` the primal one.

    Cost: primal, `p³/3` operations and `8p²` bytes. Dual, `m³/3` operations and `8m²` bytes (`4m²` for a
    float32 model with `m` above 5,000) beside the Gram matrix: `m² (o + i/r²)` operations for a dense layer
    of `o × i` weights and `r` roots an example, as `(a·a')(δ·δ')` for every pair without a Jacobian, and at
    most `m² p`. Answers are refined against the operator's own products.
    """

    name = "exact"
    factorises = True

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

    def without_damping(self, operator: LinearOperator) -> Literal["factorises", "guarded"]:
        small = self.space == "auto" and (self.method == "eigh" or operator.size <= PRIMAL_LIMIT)
        return "factorises" if small or self.space == "primal" else "guarded"

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
            return PreparedDual(operator, factor, diagonal)
        return _PrimalEigh(operator) if self.method == "eigh" else _PrimalCholesky(operator)


class _PrimalCholesky(Direct):
    def __init__(self, operator: LinearOperator):
        with memory_errors(
            "factorising the dense curvature", "Use solver=CG(), or attribute fewer parameters."
        ):
            dense = operator.to_dense()
            with progress_bar(f"Cholesky factorisation of {operator.size:,} × {operator.size:,}", None):
                factor, info = torch.linalg.cholesky_ex(dense)
            if int(info) != 0:
                raise of_eigenvalues(torch.linalg.eigvalsh(dense), operator.dtype)
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


class _PrimalEigh(Direct):
    def __init__(self, operator: LinearOperator):
        with memory_errors(
            "decomposing the dense curvature", "Use solver=CG(), or attribute fewer parameters."
        ):
            values, self._vectors = torch.linalg.eigh(operator.to_dense())
        if values[0] <= 0:
            raise of_eigenvalues(values, operator.dtype)
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


def _proven_lower_bound(
    operator: LinearOperator, dense: Float[Tensor, "p p"], factor: Float[Tensor, "p p"]
) -> tuple[float, bool]:
    """A lower bound of the eigenvalues: the operator's own, or a better one proved by factorising
    `C − μI`."""
    declared = max(operator.lower_bound, 0.0)
    if declared > _LOW * float(dense.diagonal().max()):
        return declared, True
    spectrum = lanczos_spectrum(_Inverse(factor), steps=20)
    bound = _PROOF_SHARE / max(spectrum.largest_upper, torch.finfo(torch.float64).tiny)
    shifted = dense.clone()
    shifted.diagonal().sub_(bound)
    _, info = torch.linalg.cholesky_ex(shifted)
    if int(info) == 0:
        return max(bound, declared), True
    return (declared, True) if declared > 0 else (bound / 10, False)


class _Inverse(LinearOperator):
    """`C⁻¹` from its Cholesky factor, for a Lanczos run on it."""

    def __init__(self, factor: Float[Tensor, "p p"]):
        super().__init__(len(factor), factor.dtype, factor.device)
        self._factor = factor

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return torch.cholesky_solve(vectors, self._factor)
