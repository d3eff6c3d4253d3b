"""`solver="auto"`: exact where it is cheap, EK-FAC for larger networks, conjugate gradients elsewhere."""

from __future__ import annotations

from whence.errors import InputError
from whence.linalg import LinearOperator
from whence.solvers.arnoldi import Arnoldi
from whence.solvers.base import Solver
from whence.solvers.block_diagonal import BlockDiagonal
from whence.solvers.cg import CG
from whence.solvers.choice import choose_by_cost
from whence.solvers.datainf import DataInf
from whence.solvers.exact import Exact
from whence.solvers.kronecker import EKFAC, KFAC, Diagonal, Identity
from whence.solvers.lissa import LiSSA
from whence.solvers.nystrom import Nystrom

_NAMED: dict[str, type[Solver]] = {
    "exact": Exact,
    "cg": CG,
    "lissa": LiSSA,
    "ekfac": EKFAC,
    "kfac": KFAC,
    "diagonal": Diagonal,
    "identity": Identity,
    "block_diagonal": BlockDiagonal,
    "arnoldi": Arnoldi,
    "nystrom": Nystrom,
    "datainf": DataInf,
}


def require_solver(solver: Solver | str) -> None:
    """Refuse what is no solver and names none, before anything long is computed.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(solver, Solver) and solver != "auto" and solver not in _NAMED:
        raise InputError(f"solver={solver!r}: expected 'auto', {', '.join(map(repr, _NAMED))}, or a Solver")


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
    require_solver(solver)
    if isinstance(solver, Solver):
        return solver, "as given"
    if solver in _NAMED:
        return _NAMED[solver](), "as asked, with its defaults"
    return choose_by_cost(operator, memory=memory, damped=damped)
