"""`solver="auto"`: exact where it is cheap, EK-FAC for larger networks, conjugate gradients elsewhere."""

from __future__ import annotations

from whence.curvature.gauss_newton import GaussNewtonOperator
from whence.errors import InputError
from whence.linalg import LinearOperator, split_diagonal
from whence.solvers.arnoldi import Arnoldi
from whence.solvers.base import Solver
from whence.solvers.cg import CG
from whence.solvers.exact import Exact, dual_factor
from whence.solvers.kronecker import EKFAC, KFAC, Diagonal, Identity
from whence.solvers.lissa import LiSSA
from whence.solvers.nystrom import Nystrom

# A Cholesky factorisation of this size takes a minute or so on two cores.
_PRIMAL_LIMIT = 8_000
_DUAL_LIMIT = 6_000
# Dense matrices and rows may take this share of the memory budget.
_MEMORY_SHARE = 0.8
_NAMED: dict[str, type[Solver]] = {
    "exact": Exact,
    "cg": CG,
    "lissa": LiSSA,
    "ekfac": EKFAC,
    "kfac": KFAC,
    "diagonal": Diagonal,
    "identity": Identity,
    "arnoldi": Arnoldi,
    "nystrom": Nystrom,
}


def choose_solver(
    solver: Solver | str, operator: LinearOperator, *, memory: int, damped: bool
) -> tuple[Solver, str]:
    """A solver, and why it was chosen.

    Args:
        solver: a solver, the name of one, or `"auto"`.
        operator: curvature without damping.
        memory: budget in bytes.
        damped: whether damping will be added.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(solver, Solver):
        return solver, "as given"
    if solver in _NAMED:
        return _NAMED[solver](), "as asked, with its defaults"
    if solver != "auto":
        raise InputError(f"solver={solver!r}: expected 'auto', {', '.join(map(repr, _NAMED))}, or a Solver")
    p = operator.size
    if p <= _PRIMAL_LIMIT and 3 * 8 * p * p <= _MEMORY_SHARE * memory:
        return Exact(space="auto"), f"p = {p:,} is small enough to factorise"
    rest, diagonal = split_diagonal(operator)
    invertible = damped or bool((diagonal > 0).all())
    factor = dual_factor(operator)
    if factor is not None and invertible:
        m = factor.rank
        if m <= _DUAL_LIMIT and 2 * 8 * m * m + 8 * m * p <= _MEMORY_SHARE * memory:
            return (
                Exact(space="dual"),
                f"examples × outputs = {m:,} is small enough to factorise in the dual space",
            )
    too_large = f"p = {p:,} and examples × outputs are too many to factorise"
    semidefinite = operator.lower_bound >= 0
    if len(rest) == 1 and isinstance(rest[0], GaussNewtonOperator) and semidefinite and invertible:
        return EKFAC(), f"{too_large}: layer by layer, in a Kronecker eigenbasis"
    return CG(), f"{too_large}, and the curvature is none that EK-FAC approximates"
