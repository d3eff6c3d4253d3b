"""A short Lanczos run: extreme eigenvalues with residual bounds, and the trace, of an operator seen by
products only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.linalg.operators import LinearOperator


@dataclass(frozen=True)
class Spectrum:
    """What a Lanczos run learned of an operator.

    Attributes:
        smallest, largest: extreme Ritz values. `largest ≤ λ_max` and `smallest ≥ λ_min` always (Rayleigh
            quotients).
        smallest_residual, largest_residual: an eigenvalue lies within this distance of the Ritz value.
        trace: stochastic estimate of the trace, `p · mean(zᵀ C z)` over the random starts.
        products: matrix-vector products spent.
    """

    smallest: float
    largest: float
    smallest_residual: float
    largest_residual: float
    trace: float
    products: int

    @property
    def largest_upper(self) -> float:
        """The largest Ritz value plus its residual: what a scale must exceed."""
        return self.largest + self.largest_residual

    @property
    def smallest_lower(self) -> float:
        """The smallest Ritz value minus its residual: an estimate of `λ_min`, not a proof."""
        return self.smallest - self.smallest_residual

    @property
    def smallest_positive(self) -> float:
        """A cautious `λ_min` of an operator whose Ritz values are all positive: never below a tenth of the
        smallest."""
        return max(self.smallest_lower, 0.1 * self.smallest)


def lanczos_spectrum(
    operator: LinearOperator, *, steps: int = 30, starts: int = 2, seed: int = 0
) -> Spectrum:
    """Extreme eigenvalues of `operator` by Lanczos with full reorthogonalisation.

    Args:
        operator: symmetric, any definiteness.
        steps: Lanczos steps for each start (fewer where the Krylov space is exhausted).
        starts: random starts, run together as columns; more starts sharpen the trace and guard against a
            start that is orthogonal to an extreme eigenvector.
        seed: of the random starts.

    Returns:
        A `Spectrum`. Cost: `steps · starts` products and `steps · starts · p` numbers.

    Source: Golub & Van Loan, *Matrix Computations* (4th ed.), §10.1–10.3.
    """
    alpha, beta, length, products = tridiagonalise(operator, sphere_starts(operator, starts, seed), steps)
    return _summarise(alpha, beta, length, operator.size, products)


def sphere_starts(operator: LinearOperator, starts: int, seed: int) -> Float[Tensor, "starts p"]:
    """Random unit vectors, drawn on the CPU, so that they are the same whatever the device."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(starts, operator.size, generator=generator, dtype=torch.float64)
    start = start.to(dtype=operator.dtype, device=operator.device)
    return start / start.norm(dim=1, keepdim=True)


def tridiagonalise(
    operator: LinearOperator, start: Float[Tensor, "starts p"], steps: int
) -> tuple[Float[Tensor, "steps starts"], Float[Tensor, "steps starts"], Int[Tensor, " starts"], int]:
    """Lanczos with full reorthogonalisation from every start by itself, the products in step.

    Returns:
        The diagonals, the off-diagonals, how many steps count of each start (the Krylov space of a start may
        be exhausted before), and the products spent. Memory: `(steps + 1) · starts · p` numbers.
    """
    starts, p = start.shape
    steps = min(steps, p)
    dtype, device = operator.dtype, operator.device
    basis = torch.zeros(steps + 1, starts, p, dtype=dtype, device=device)
    basis[0] = start
    alpha = torch.zeros(steps, starts, dtype=torch.float64)
    beta = torch.zeros(steps, starts, dtype=torch.float64)
    length = torch.full((starts,), steps)
    products = 0
    for step in range(steps):
        current = basis[step]
        image = operator.matmat(current.T).T
        products += starts
        alpha[step] = (image * current).sum(1).double().cpu()
        for _ in range(2):  # twice is enough (Kahan–Parlett) to stay orthogonal to working precision
            overlap = torch.einsum("jsp,sp->js", basis[: step + 1], image)
            image = image - torch.einsum("js,jsp->sp", overlap, basis[: step + 1])
        norm = image.norm(dim=1)
        beta[step] = norm.double().cpu()
        scale = alpha[: step + 1].abs().amax(0) + beta[: step + 1].amax(0)
        exhausted = beta[step] <= 100 * torch.finfo(dtype).eps * scale.clamp(min=1e-300)
        length = torch.where(exhausted & (length == steps), torch.tensor(step + 1), length)
        if bool((length <= step + 1).all()):
            break
        safe = torch.where(norm > 0, norm, torch.ones_like(norm))
        basis[step + 1] = torch.where((norm > 0)[:, None], image / safe[:, None], torch.zeros_like(image))
    return alpha, beta, length, products


def _summarise(
    alpha: Float[Tensor, "steps starts"],
    beta: Float[Tensor, "steps starts"],
    length: Tensor,
    size: int,
    products: int,
) -> Spectrum:
    smallest, largest = (float("inf"), 0.0), (-float("inf"), 0.0)
    for start in range(alpha.shape[1]):
        m = int(length[start])
        values, vectors = ritz(alpha[:, start], beta[:, start], m)
        residuals = beta[m - 1, start] * vectors[-1].abs()
        if float(values[0]) < smallest[0]:
            smallest = (float(values[0]), float(residuals[0]))
        if float(values[-1]) > largest[0]:
            largest = (float(values[-1]), float(residuals[-1]))
    return Spectrum(
        smallest=smallest[0],
        largest=largest[0],
        smallest_residual=smallest[1],
        largest_residual=largest[1],
        trace=float(alpha[0].mean()) * size,
        products=products,
    )


def ritz(
    alpha: Float[Tensor, " steps"], beta: Float[Tensor, " steps"], length: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
    """Eigenvalues, ascending, and eigenvectors of the leading `length` rows of a tridiagonal matrix."""
    off = beta[: length - 1]
    return torch.linalg.eigh(torch.diag(alpha[:length]) + torch.diag(off, 1) + torch.diag(off, -1))
