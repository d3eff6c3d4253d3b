"""`solver="auto"`: exact where it is cheap, conjugate gradients elsewhere."""

from __future__ import annotations

from whence.errors import InputError
from whence.linalg import LinearOperator
from whence.solvers.base import Solver
from whence.solvers.cg import CG
from whence.solvers.exact import Exact, dual_form
from whence.solvers.lissa import LiSSA

# A Cholesky factorisation of this size takes a minute or so on two cores.
_PRIMAL_LIMIT = 8_000
_DUAL_LIMIT = 6_000
# Dense matrices and rows may take this share of the memory budget.
_MEMORY_SHARE = 0.8


def choose_solver(solver: Solver | str, operator: LinearOperator, *, memory: int) -> tuple[Solver, str]:
    """A solver, and why it was chosen.

    Args:
        solver: a solver, `"exact"`, `"cg"`, `"lissa"`, or `"auto"`.
        operator: damped curvature.
        memory: budget in bytes.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(solver, Solver):
        return solver, "as given"
    named: dict[str, type[Solver]] = {"exact": Exact, "cg": CG, "lissa": LiSSA}
    if solver in named:
        return named[solver](), "as asked, with its defaults"
    if solver != "auto":
        raise InputError(f"solver={solver!r}: expected 'auto', 'exact', 'cg', 'lissa', or a Solver")
    p = operator.size
    if p <= _PRIMAL_LIMIT and 3 * 8 * p * p <= _MEMORY_SHARE * memory:
        return Exact(space="auto"), f"p = {p:,} is small enough to factorise"
    factor, _ = dual_form(operator)
    if factor is not None:
        m = factor.rank
        if m <= _DUAL_LIMIT and 2 * 8 * m * m + 8 * m * p <= _MEMORY_SHARE * memory:
            return Exact(
                space="dual"
            ), f"examples × outputs = {m:,} is small enough to factorise in the dual space"
    return CG(), f"p = {p:,} is too large to factorise within the memory budget"
