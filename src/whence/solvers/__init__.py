"""Solvers of `C_λ x = v`, each with its error."""

from whence.solvers.auto import choose_solver
from whence.solvers.base import PreparedSolver, Solution, Solver
from whence.solvers.cg import CG
from whence.solvers.damping import Damping, choose_damping
from whence.solvers.exact import Exact
from whence.solvers.lissa import LiSSA
from whence.solvers.preconditioner import InverseOperator

__all__ = [
    "CG",
    "Damping",
    "Exact",
    "InverseOperator",
    "LiSSA",
    "PreparedSolver",
    "Solution",
    "Solver",
    "choose_damping",
    "choose_solver",
]
