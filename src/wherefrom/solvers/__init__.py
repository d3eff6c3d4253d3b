"""Solvers of `C_λ x = v`, each with its error."""

from wherefrom.solvers.arnoldi import Arnoldi
from wherefrom.solvers.astra import Astra
from wherefrom.solvers.auto import choose_solver, require_solver
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.block_diagonal import BlockDiagonal, PreparedBlockDiagonal
from wherefrom.solvers.blocks import BlockSolver, PreparedBlocks
from wherefrom.solvers.cg import CG
from wherefrom.solvers.damping import Damping, RelativeDamping, choose_damping
from wherefrom.solvers.datainf import DataInf
from wherefrom.solvers.exact import Exact
from wherefrom.solvers.kronecker import (
    EKFAC,
    KFAC,
    Diagonal,
    Identity,
    relative_damping,
)
from wherefrom.solvers.lissa import LiSSA
from wherefrom.solvers.nystrom import Nystrom
from wherefrom.solvers.pairing import OwnScores, Pairing, PairScores, SolvedBlock
from wherefrom.solvers.preconditioner import InverseOperator, preconditioner_of
from wherefrom.solvers.projected import Projected
from wherefrom.solvers.scaled import solve_scaled
from wherefrom.solvers.solution import Solution, solution_from

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
    "OwnScores",
    "PairScores",
    "Pairing",
    "PreparedBlockDiagonal",
    "PreparedBlocks",
    "PreparedSolver",
    "Projected",
    "RelativeDamping",
    "Solution",
    "SolvedBlock",
    "Solver",
    "choose_damping",
    "choose_solver",
    "preconditioner_of",
    "relative_damping",
    "require_solver",
    "solution_from",
    "solve_scaled",
]
