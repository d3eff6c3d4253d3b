"""How the eigenvalues of an operator are distributed: stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError, NonFiniteError, NotPositiveDefiniteError
from wherefrom.linalg.estimates import Estimate, check_finite, dense_matrix, mean_and_standard_error
from wherefrom.linalg.lanczos import ritz, sphere_starts, tridiagonalise
from wherefrom.linalg.operators import LinearOperator
from wherefrom.memory import memory_budget
from wherefrom.progress import progress_bar

Grid = Sequence[float] | Tensor


@dataclass(frozen=True)
class SpectralDensity:
    """Weighted nodes that stand for the eigenvalues, one set for each random start.

    All numbers are float64 on the CPU. Standard errors are over the starts (`nan` for one start, 0 where the
    spectrum is exact); with few starts the mean over its standard error follows Student's t with `starts − 1`
    degrees of freedom. The quadrature itself is exact for polynomials up to degree `2·steps − 1`; what a
    sharper function loses by it is not in the standard errors.

    Attributes:
        nodes, weights: `(starts, steps)`; the weights of a start sum to 1, those of steps not taken are 0.
        size: of the operator, `p`.
        products: matrix-vector products spent.
        exact: whether the nodes are the eigenvalues themselves.
        rounding: eigenvalues nearer to each other than this are the same to the operator's dtype.
    """

    nodes: Float[Tensor, "starts steps"]
    weights: Float[Tensor, "starts steps"]
    size: int
    products: int
    exact: bool
    rounding: float

    @property
    def smallest(self) -> float:
        """The smallest node: `≥ λ_min` and near it."""
        return float(self.nodes.min())

    @property
    def largest(self) -> float:
        """The largest node: `≤ λ_max` and near it."""
        return float(self.nodes.max())

    def density(
        self, grid: Grid, width: float | None = None
    ) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
        """Share of the eigenvalues per unit of curvature at the points of `grid`, each smeared to a Gaussian:
        `(mean, standard error)`; the density integrates to 1.

        Args:
            grid: points, in the units of the operator.
            width: standard deviation of the Gaussian; a hundredth of the range of the nodes unless given.

        Raises:
            InputError: a grid that is not one row of finite numbers, or a width that is not positive.
        """
        points = _points(grid)
        if width is None:
            spread = self.largest - self.smallest
            width = 0.01 * (spread if spread > self.rounding else abs(self.largest) or 1.0)
        if not (math.isfinite(width) and width > 0):
            raise InputError(f"width={width!r}: expected a positive number, in the units of the operator")
        rows = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            bells = (-0.5 * ((points[:, None] - nodes) / width).square()).exp()
            rows.append(bells @ weights / (width * math.sqrt(2 * math.pi)))
        return self._over_starts(torch.stack(rows))

    def cumulative(self, grid: Grid) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
        """Share of the eigenvalues at or below each point of `grid`: `(mean, standard error)`.

        Raises:
            InputError: a grid that is not one row of finite numbers.
        """
        points = _points(grid)
        rows = [
            (nodes <= points[:, None]).double() @ weights
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return self._over_starts(torch.stack(rows))

    def integral(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """`tr f(C)`, the sum of `f` over the eigenvalues.

        Args:
            function: from eigenvalues to values, entry by entry, on float64 tensors.

        Raises:
            NonFiniteError: `f` is not finite at a node.
        """
        values = torch.where(self.weights > 0, function(self.nodes), 0.0)
        if not bool(values.isfinite().all()):
            where = float(self.nodes[~values.isfinite()][0])
            raise NonFiniteError(
                f"the function is not finite at the eigenvalue {where:.6g}; expected finite values on "
                f"[{self.smallest:.6g}, {self.largest:.6g}]: damp its argument, or use another function"
            )
        mean, error = self._over_starts(self.size * (values * self.weights).sum(1))
        return Estimate(float(mean), float(error), self.products)

    def trace(self) -> Estimate:
        """`tr C`."""
        return self.integral(lambda values: values)

    def log_determinant(self, damping: float = 0.0) -> Estimate:
        """`log det(C + damping·I)`.

        Raises:
            InputError: damping that is no finite number.
            NotPositiveDefiniteError: `C + damping·I` has an eigenvalue that is not positive beyond rounding.
        """
        self._check_damping(damping)
        return self.integral(lambda values: (values + damping).log())

    def effective_dimension(self, damping: float) -> Estimate:
        """`tr C (C + damping·I)⁻¹`: how many directions have more curvature than damping, softly counted.

        Raises:
            InputError: damping that is no finite number.
            NotPositiveDefiniteError: `C + damping·I` has an eigenvalue that is not positive beyond rounding.
        """
        self._check_damping(damping)
        return self.integral(lambda values: values / (values + damping))

    def _check_damping(self, damping: float) -> None:
        if not math.isfinite(damping):
            raise InputError(f"damping={damping!r}: expected a finite number, in the units of the operator")
        if self.smallest + damping <= self.rounding:
            needed = 1.5 * max(-self.smallest, 0.0) + 10 * self.rounding
            raise NotPositiveDefiniteError(
                f"damping={damping:.6g}: the smallest eigenvalue found is {self.smallest:.6g}, so the damped "
                f"operator is not positive definite (to a rounding of {self.rounding:.1e}); expected damping "
                f"> {self.rounding - self.smallest:.6g}: {needed:.2g} leaves a margin",
                eigenvalue=self.smallest,
                damping=needed,
            )

    def _over_starts(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        mean, error = mean_and_standard_error(samples)
        return mean, torch.zeros_like(error) if self.exact else error


def spectral_density(
    operator: LinearOperator, *, steps: int = 64, starts: int = 8, seed: int = 0
) -> SpectralDensity:
    """The eigenvalue distribution of `operator`, by Lanczos from random starts.

    From a random unit vector `z`, Lanczos finds nodes and weights with `zᵀ f(C) z ≈ Σ w_j f(θ_j)`, and
    `p · E[zᵀ f(C) z] = tr f(C)`. An operator with no more rows than the run would spend products is formed
    and decomposed instead.

    Args:
        operator: symmetric, any definiteness.
        steps: Lanczos steps, the resolution: finest at the ends of the spectrum, about the range over `steps`
            inside.
        starts: random starts; standard errors fall like `1/√starts`, and are smaller for larger operators.
        seed: of the starts.

    Raises:
        InputError: steps or starts below 1.
        NonFiniteError: a product with NaN or infinity.

    Cost: `steps · starts` products, the starts as columns together; memory for the basis of as many starts as
    fit into a quarter of what is free (at most 4 GiB), at least one: `(steps + 1) · p` numbers each.

    Source: Ubaru, Chen & Saad 2017, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J.
    Matrix Anal. Appl. 38; Ghorbani, Krishnan & Xiao 2019, *An investigation into neural net optimization via
    Hessian eigenvalue density*, ICML.
    """
    whole("steps", steps, 1)
    whole("starts", starts, 1)
    p, eps = operator.size, torch.finfo(operator.dtype).eps
    if p <= steps * starts:
        values = torch.linalg.eigvalsh(dense_matrix(operator).cpu())[None]
        rounding = 10 * eps * float(values.abs().max())
        return SpectralDensity(values, torch.full_like(values, 1 / p), p, p, True, rounding)
    each = (min(steps, p) + 1) * p * torch.finfo(operator.dtype).bits // 8
    together = max(1, min(starts, memory_budget("auto", operator.device) // each))
    nodes = torch.zeros(starts, min(steps, p), dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    products = done = 0
    vectors = sphere_starts(operator, starts, seed)
    parts = vectors.split(together)
    with progress_bar("spectral density", len(parts), enabled=len(parts) > 1) as bar:
        for part in parts:
            alpha, beta, length, spent = tridiagonalise(operator, part, steps)
            products += spent
            check_finite(alpha)
            for column, m in enumerate(length.tolist()):
                values, coordinates = ritz(alpha[:, column], beta[:, column], m)
                nodes[done, :m], nodes[done, m:] = values, values[-1]
                weights[done, :m] = coordinates[0].square()
                done += 1
            bar.advance()
    return SpectralDensity(nodes, weights, p, products, False, 10 * eps * float(nodes.abs().max()))


def _points(grid: Grid) -> Float[Tensor, " g"]:
    points = torch.as_tensor(grid, dtype=torch.float64).cpu()
    if points.ndim != 1 or not bool(points.isfinite().all()):
        raise InputError(
            f"grid of shape {tuple(points.shape)}: expected one row of finite numbers, in its units"
        )
    return points
