"""Solutions against gradients: solved for in blocks that fit the memory, every product with its error."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.errors import NonFiniteError
from wherefrom.gradients import ExampleGradients, GradientSizes
from wherefrom.memory import fitting, memory_errors
from wherefrom.progress import progress_display
from wherefrom.solvers.damping_effect import damping_share
from wherefrom.solvers.scaled import solve_scaled
from wherefrom.solvers.score_errors import overlap_with, rounding_estimate, score_bound
from wherefrom.solvers.solution import Solution

# Vectors of size p held per query while a block of queries is solved.
_VECTORS_PER_QUERY = 10
_SOLVE_SHARE = 0.5
_MOST_TOGETHER = 1024
# Training gradients by which the rounding of dot products is gauged.
_FEW = 8
# Entries of exact solutions and gradients are off by one to twenty units, measured on softmax, dense and
# convolutional models in float32 and float64, primal and dual; networks of several layers lose more than a
# linear head.
_ROUNDING_UNITS_HEAD = 2.5
_ROUNDING_UNITS = 5.0


@dataclass(frozen=True)
class PairScores:
    """`∇mᵀ C_λ⁻¹ g_i` of queries and training examples.

    Attributes:
        values: `(q, n)`, on the CPU.
        error: expected error of each; infinite where it was not measured.
        bound: what that error cannot exceed; infinite where nothing is known.
        converged: per query, and `reason` for those that are not.
        relative_residual: per query.
        damping_share: see `damping_effect.damping_share`; `None` where that was not measured.
        distance: expected relative error of a query's scores against the full curvature's answer, for solvers
            that approximate it.
        plan: that was carried out, as JSON values, where layers are contracted apart.
    """

    values: Float[Tensor, "q n"]
    error: Float[Tensor, "q n"]
    bound: Float[Tensor, "q n"]
    converged: Bool[Tensor, " q"]
    reason: str
    relative_residual: Float[Tensor, " q"]
    damping_share: float | None = None
    distance: float | None = None
    plan: dict[str, Any] | None = None


@dataclass(frozen=True)
class OwnScores:
    """`g_iᵀ C_λ⁻¹ g_i` of training examples, `(k,)` each; fields as in `PairScores`."""

    values: Float[Tensor, " k"]
    error: Float[Tensor, " k"]
    bound: Float[Tensor, " k"]
    converged: Bool[Tensor, " k"]
    reason: str


@dataclass(frozen=True)
class SolvedBlock:
    """Query gradients and their solutions for a block of queries."""

    where: slice
    gradients: Float[Tensor, "p k"]
    solution: Solution


class Pairing:
    """What a prepared solver's answers are paired with, and in which terms their errors are stated.

    Args:
        prepared: the solver (a `PreparedSolver`).
        train: gradients of the training losses.
        solver: its name as a user writes it.
        damping: `λ`, or one for each parameter.
        most_damping: the largest of them.
        departs: whether what the damping does to scores is part of their error.
        largest: `λ_max(C)`, from above.
        progress: show progress bars when standard error is a terminal.
    """

    def __init__(
        self,
        prepared: Any,
        train: ExampleGradients,
        *,
        solver: str,
        damping: float | Tensor,
        most_damping: float,
        departs: bool,
        largest: float,
        progress: bool,
    ):
        self.prepared = prepared
        self.train = train
        self.solver = solver
        self.damping = damping
        self.most_damping = most_damping
        self.departs = departs
        self._largest = max(largest, 0.0) + most_damping
        self.progress = progress
        self.objective = train.engine.objective

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """`C_λ⁻¹ v`, refused if it is not finite."""
        return self._solved(self.prepared.solve, rhs)

    def apply(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """The same, without the work that only its error needs."""
        return self._solved(self.prepared.apply, rhs)

    def blocks(self, gradients: ExampleGradients, *, errors: bool = True) -> Iterator[SolvedBlock]:
        """Query gradients and `C_λ⁻¹` of them, in blocks that fit the memory budget; without `errors`,
        nothing is found out about these."""
        size = self.block_size()
        for start in range(0, len(gradients), size):
            where = slice(start, min(start + size, len(gradients)))
            with memory_errors(
                "solving for a block of queries", "Lower memory= or pass fewer queries at once."
            ):
                rows, shaken = self._rows(gradients, where)
                rhs = rows.T
                solution = self.solve(rhs) if errors else self.apply(rhs)
                if errors:
                    solution = replace(solution, rhs_shaken=shaken, overlap=self.overlap(solution.x))
            yield SolvedBlock(where, rhs, solution)

    def products(
        self, gradients: ExampleGradients, solution: Solution
    ) -> Iterator[tuple[slice, Float[Tensor, "b k"], Float[Tensor, "b k"], GradientSizes]]:
        """For consecutive gradients: which, their products with the solution `(b, k)`, the errors expected in
        these, and the sizes of the gradients. One pass, with solution and error directions together."""
        for where, inner, sizes in gradients.products(solution.columns):
            values, missed = solution.errors_of(inner)
            rounding = self.rounding_estimate(solution, sizes, values.T).T
            yield where, values, torch.hypot(missed, rounding), sizes

    def block_size(self) -> int:
        """Queries solved together."""
        bytes_each = self.objective.p * self.objective.dtype.itemsize * _VECTORS_PER_QUERY
        return fitting(self.objective.memory * _SOLVE_SHARE, bytes_each, _MOST_TOGETHER)

    def score_bound(
        self, solution: Solution, gradients: GradientSizes | Float[Tensor, " b"], floor: float | None = None
    ) -> Float[Tensor, "k b"]:
        """See `score_errors.score_bound`; `floor` stands for `λ_min` where the solution is of another system.
        Where the answer sought is that of `C` itself, its residual is `r + λx`."""
        floor = self.prepared.lower_bound if floor is None else floor
        if self.departs:
            missing = self.most_damping * solution.x.norm(dim=0)
            solution = replace(solution, residual_norm=solution.residual_norm + missing)
            floor -= self.most_damping
        return score_bound(solution, gradients, floor=floor, largest=self._largest)

    def rounding_estimate(
        self,
        solution: Solution,
        gradients: GradientSizes | Float[Tensor, " b"],
        scores: Float[Tensor, "k b"] | None = None,
    ) -> Float[Tensor, "k b"]:
        """See `score_errors.rounding_estimate`; infinite where nothing is known of the solution's error."""
        units = _ROUNDING_UNITS_HEAD if self.train.engine.affine else _ROUNDING_UNITS
        made = rounding_estimate(solution, gradients, scores, units=units)
        return made if solution.error_known else torch.full_like(made, torch.inf)

    def overlap(self, x: Float[Tensor, "p k"]) -> Float[Tensor, " k"]:
        """See `score_errors.overlap_with`: with a few training gradients."""
        return overlap_with(x, self._few_gradients)

    def damping_share(self, gradients: Float[Tensor, "p k"], x: Float[Tensor, "p k"]) -> float:
        """See `damping_effect.damping_share`."""
        return damping_share(gradients, x, self.damping)

    @functools.cached_property
    def _few_gradients(self) -> Float[Tensor, "m p"]:
        chosen = torch.tensor(self.objective.examples.spread(_FEW), device=self.objective.device)
        parts = chosen.split(self.train.engine.rows_per_batch())
        return torch.cat([self.train.rows(part) for part in parts])

    def _rows(
        self, gradients: ExampleGradients, where: slice
    ) -> tuple[Float[Tensor, "k p"], Float[Tensor, " k"]]:
        """Explicit gradients and how far rounding moves them, taken in pieces so that graphs stay within the
        working memory."""
        size = self.train.engine.rows_per_batch()
        parts = [
            gradients.rows_and_sizes(slice(start, min(start + size, where.stop)))
            for start in range(where.start, where.stop, size)
        ]
        return torch.cat([rows for rows, _ in parts]), torch.cat([sizes.shaken for _, sizes in parts])

    def _solved(
        self, solve: Callable[[Float[Tensor, "p k"]], Solution], rhs: Float[Tensor, "p k"]
    ) -> Solution:
        if not bool(torch.isfinite(rhs).all()):
            raise NonFiniteError(
                "a gradient holds NaN or infinity: the loss is not differentiable at these parameters"
            )
        with progress_display(self.progress):
            solution = solve_scaled(solve, rhs)
        if not bool(torch.isfinite(solution.x).all()):
            raise NonFiniteError(
                f"solver {self.solver!r} returned NaN or infinity: raise damping (now "
                f"{self.most_damping:g}) or use dtype=torch.float64"
            )
        return solution
