"""The contract of a solver of `C_λ x = v`: prepare once for an operator, then solve for columns, and say how
well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.gradients import Coverage
from wherefrom.linalg import LinearOperator


@dataclass(frozen=True)
class Solution:
    """`x ≈ C_λ⁻¹ v` for `k` columns, and what is known of the error.

    Attributes:
        x: `(p, k)`.
        converged: per column, whether the solver reached what it was asked for.
        reason: why it stopped, in words, for the columns that did not converge (empty when all did).
        iterations: per column.
        residual_norm: `‖v − C_λ x‖`, recomputed with the full operator after the last iteration.
        rhs_norm: `‖v‖`.
        error_directions: `(r, p, k)`: the error of `uᵀx` is estimated by the norm over `r` of `E_rᵀ u`;
            `r = 0` when nothing but rounding is left.
        rhs_shaken: rounding moved `v` itself by about `eps` times this; `None` where that is not known.
        overlap: typical `‖x ∘ g‖ / (‖x‖ ‖g‖)` of the gradients that meet `x`; `None` for `1/√p`, that of
            vectors without structure.
    """

    x: Float[Tensor, "p k"]
    converged: Bool[Tensor, " k"]
    reason: str
    iterations: Int[Tensor, " k"]
    residual_norm: Float[Tensor, " k"]
    rhs_norm: Float[Tensor, " k"]
    error_directions: Float[Tensor, "r p k"]
    rhs_shaken: Float[Tensor, " k"] | None = None
    overlap: Float[Tensor, " k"] | None = None

    @property
    def relative_residual(self) -> Float[Tensor, " k"]:
        """`‖v − C_λ x‖ / ‖v‖` (0 for `v = 0`)."""
        return torch.where(
            self.rhs_norm > 0, self.residual_norm / self.rhs_norm, torch.zeros_like(self.rhs_norm)
        )


class PreparedSolver(ABC):
    """A solver bound to one operator.

    Attributes:
        operator: `C_λ`, damping included.
        lower_bound: lower bound of the eigenvalues of `C_λ` that the error bound divides by.
        lower_bound_proven: whether that bound is proven, or only estimated from Ritz values.
        notes: what was chosen and measured, for reports; JSON values.
        name: of the solver, as a user writes it.
        left_out: what the solver leaves out of the curvature by design, in plain words; empty if nothing.
        can_refine: whether single scores can be corrected by solving for the training side too.
    """

    name: str = "this solver"
    left_out: str = ""
    can_refine: bool = True

    def __init__(self, operator: LinearOperator, lower_bound: float, lower_bound_proven: bool):
        self.operator = operator
        self.lower_bound = lower_bound
        self.lower_bound_proven = lower_bound_proven
        self.notes: dict[str, Any] = {}

    @abstractmethod
    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """Solve for all columns. Never returns a column that is not finite."""

    def as_preconditioner(self) -> LinearOperator:
        """`M⁻¹ ≈ C_λ⁻¹`: the fixed, linear, symmetric positive definite map that this solver applies.

        Raises:
            UnsupportedError: the answer is no such map: it depends on the right-hand side's history, on
                chance, or is not symmetric.
        """
        raise UnsupportedError(
            f"{self.name} cannot precondition: what it applies is not a fixed symmetric positive definite "
            "map. Use a solver whose answer is one, such as Nystrom() or EKFAC()."
        )

    def coverage(self) -> Sequence[Coverage]:
        """Which layer rule attributes which parameters; empty where all parameters are solved for at once."""
        return ()

    def watch(self, gradients: Float[Tensor, "p m"]) -> None:  # noqa: B027
        """Tell the solver a sample of the gradients, as columns, whose products with `x` are wanted.

        A solver that stops by its scores follows them; the others have no use for them.

        Raises:
            InputError: not `(p, m)` with `m ≥ 1` (solvers that follow them).
        """


class Solver(ABC):
    """How `C_λ⁻¹` is applied; holds settings only.

    Attributes:
        name: as a user writes it.
        factorises: preparing it does all the work: a further solve costs next to nothing.
    """

    name: str
    factorises: bool = False

    @abstractmethod
    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        """Do once what is shared by all right-hand sides.

        Raises:
            NotPositiveDefiniteError: `operator` is found not to be positive definite.
        """

    def without_damping(
        self, operator: LinearOperator
    ) -> Literal["factorises", "products", "guarded"] | None:
        """How this solver copes with a positive definite `C` that has no damping: `"factorises"`, so that
        preparing it measures the smallest eigenvalue; `"products"` with any `C` will do; `"guarded"`: exact,
        but every parameter needs some damping or weight decay. `None`: its answer rests on damping."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON values that define the solver, for manifests and fingerprints."""


def solution_from(
    operator: LinearOperator,
    rhs: Float[Tensor, "p k"],
    x: Float[Tensor, "p k"],
    *,
    converged: Bool[Tensor, " k"],
    reason: str,
    iterations: Int[Tensor, " k"],
    error_directions: Float[Tensor, "r p k"],
    residual: Float[Tensor, "p k"] | None = None,
) -> Solution:
    """A `Solution` whose residual is recomputed with `operator` unless the caller has just done so."""
    if residual is None:
        residual = rhs - operator.matmat(x)
    return Solution(x, converged, reason, iterations, residual.norm(dim=0), rhs.norm(dim=0), error_directions)
