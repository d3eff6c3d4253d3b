"""Solvers of `C_λ x = v`, each with its error."""

from whence.solvers.arnoldi import Arnoldi
from whence.solvers.astra import Astra
from whence.solvers.auto import choose_solver, require_solver
from whence.solvers.base import PreparedSolver, Solution, Solver
from whence.solvers.block_diagonal import BlockDiagonal, PreparedBlockDiagonal
from whence.solvers.cg import CG
from whence.solvers.damping import Damping, RelativeDamping, choose_damping
from whence.solvers.datainf import DataInf
from whence.solvers.exact import Exact
from whence.solvers.kronecker import (
    EKFAC,
    KFAC,
    BlockSolver,
    Diagonal,
    Identity,
    PreparedBlocks,
    keep_factors,
    relative_damping,
)
from whence.solvers.lissa import LiSSA
from whence.solvers.nystrom import Nystrom
from whence.solvers.preconditioner import InverseOperator, preconditioner_of
from whence.solvers.projected import Projected
from whence.solvers.scaled import solve_scaled

__all__ = [
    "CG",
    "EKFAC",
    "KFAC",
    "Arnoldi",
    "Astra",
    "BlockDiagonal",
    "BlockSolver",
    "Damping",
    "DataInf",
    "Diagonal",
    "Exact",
    "Identity",
    "InverseOperator",
    "LiSSA",
    "Nystrom",
    "PreparedBlockDiagonal",
    "PreparedBlocks",
    "PreparedSolver",
    "Projected",
    "RelativeDamping",
    "Solution",
    "Solver",
    "choose_damping",
    "choose_solver",
    "keep_factors",
    "preconditioner_of",
    "relative_damping",
    "require_solver",
    "solve_scaled",
]
