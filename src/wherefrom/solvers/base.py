"""The contract of a solver of `C_λ x = v`: prepare once for an operator, then solve for columns, or for pairs
of gradients, and say how well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.gradients import Coverage, ExampleGradients, LayerGradients
from wherefrom.linalg import LinearOperator, Spectrum
from wherefrom.solvers.explicit_pairs import explicit_scores, explicit_self_scores
from wherefrom.solvers.pairing import OwnScores, Pairing, PairScores
from wherefrom.solvers.solution import Solution


class PreparedSolver(ABC):
    """A solver bound to one operator.

    Attributes:
        operator: `C_λ`, damping included.
        lower_bound: lower bound of the eigenvalues of `C_λ` that the error bound divides by.
        lower_bound_proven: whether that bound is proven, or only estimated from Ritz values.
        notes: what was chosen and measured, for reports; JSON values.
        name: of the solver, as a user writes it.
        left_out: what the solver leaves out of the curvature by design, in plain words; empty if nothing.
        approximates: its answers are those of another matrix, and are not corrected towards `C_λ⁻¹`: no
            single score can be, and no step with the curvature of other data is defined.
        layers: factored gradients that it was prepared with, where it works with these.
        follows_scores: whether it stops by scores, and so wants to `watch` some gradients.
    """

    name: str = "this solver"
    left_out: str = ""
    approximates: bool = False
    layers: LayerGradients | None = None
    follows_scores: bool = False

    def __init__(self, operator: LinearOperator, lower_bound: float, lower_bound_proven: bool):
        self.operator = operator
        self.lower_bound = lower_bound
        self.lower_bound_proven = lower_bound_proven
        self.notes: dict[str, Any] = {}

    @abstractmethod
    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """Solve for all columns, with error directions. Never returns a column that is not finite."""

    def apply(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """The same `x` as `solve`, without the work that only its error needs."""
        return self.solve(rhs)

    def pairwise(self, pairing: Pairing, gradients: ExampleGradients, refine: int = 0) -> PairScores:
        """`∇mᵀ C_λ⁻¹ g_i` of queries and all training examples, each with its error.

        Args:
            pairing: of this solver with the training gradients.
            gradients: of the queries' measurements.
            refine: extreme scores of each query, at either end, that are corrected by solving for the
                training side too; 0 for solvers that `approximates` the curvature.
        """
        return explicit_scores(pairing, gradients, refine)

    def quadratic(self, pairing: Pairing, index: Int[Tensor, " k"]) -> OwnScores:
        """`g_iᵀ C_λ⁻¹ g_i` of these training examples, each with its error."""
        return explicit_self_scores(pairing, index)

    def plan(self, pairing: Pairing, gradients: ExampleGradients) -> Any:
        """How pairs would be contracted, layer by layer (a `contraction.Plan`).

        Raises:
            UnsupportedError: there is no plan to choose.
        """
        raise UnsupportedError(
            f"solver={pairing.solver!r} works on all parameters at once, so there is no plan by layers: use "
            "solver=EKFAC() for one."
        )

    def spectrum(self) -> Spectrum | None:
        """Extreme eigenvalues of `C`, without damping, as far as preparing measured them."""
        return None

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
        layers_apart: it treats layers apart: damping is relative to each layer unless asked otherwise, and
            the gradients' factors are at hand once it is prepared.
        uses_curvature: whether the curvature decides its answer.
    """

    name: str
    factorises: bool = False
    layers_apart: bool = False
    uses_curvature: bool = True

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
