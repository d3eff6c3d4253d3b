"""`solver="auto"`: exact where it is cheap, EK-FAC for larger networks, conjugate gradients elsewhere."""

from __future__ import annotations

from wherefrom.linalg import LinearOperator
from wherefrom.solvers.base import Solver
from wherefrom.solvers.choice import choose_by_cost
from wherefrom.solvers.names import named_solver, solver_name


def require_solver(solver: Solver | str) -> None:
    """Refuse what is no solver and names none, before anything long is computed.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(solver, Solver):
        solver_name(solver)


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
    name = solver_name(solver)
    if name != "auto":
        return named_solver(name, operator), "as asked, with its defaults"
    return choose_by_cost(operator, memory=memory, damped=damped)
