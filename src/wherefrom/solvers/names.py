"""Solvers by name, each with defaults that work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wherefrom.gradients.projections import Rademacher
from wherefrom.linalg import LinearOperator
from wherefrom.names import resolve_name
from wherefrom.solvers.arnoldi import Arnoldi
from wherefrom.solvers.astra import Astra
from wherefrom.solvers.base import Solver
from wherefrom.solvers.block_diagonal import BlockDiagonal
from wherefrom.solvers.cg import CG
from wherefrom.solvers.datainf import DataInf
from wherefrom.solvers.exact import Exact
from wherefrom.solvers.kronecker import EKFAC, KFAC, Diagonal, Identity
from wherefrom.solvers.lissa import LiSSA
from wherefrom.solvers.nystrom import Nystrom
from wherefrom.solvers.projected import Projected

# As many components as TRAK takes for small models (Park et al. 2023, §4).
_COMPONENTS = 4096

_NAMED: dict[str, Callable[[LinearOperator], Solver]] = {
    "exact": lambda _: Exact(),
    "cg": lambda _: CG(),
    "lissa": lambda _: LiSSA(),
    "ekfac": lambda _: EKFAC(),
    "kfac": lambda _: KFAC(),
    "astra": lambda _: Astra(EKFAC()),
    "arnoldi": lambda _: Arnoldi(),
    "nystrom": lambda _: Nystrom(),
    "datainf": lambda _: DataInf(),
    "identity": lambda _: Identity(),
    "diagonal": lambda _: Diagonal(),
    "block_diagonal": lambda _: BlockDiagonal(),
    "projected": lambda operator: Projected(Rademacher(min(_COMPONENTS, operator.size))),
}
_ALIASES = {
    "cholesky": "exact",
    "conjugate_gradients": "cg",
    "conjugate_gradient": "cg",
    "nyström": "nystrom",
    "trak": "projected",
}
SOLVER_NAMES = ("auto", *_NAMED)


def solver_name(given: Any) -> str:
    """One of `SOLVER_NAMES`, whatever its case, hyphens and spaces.

    Raises:
        InputError: none of them, with the closest.
    """
    return resolve_name("solver", given, SOLVER_NAMES, aliases=_ALIASES, also="a wherefrom.solvers object")


def named_solver(name: str, operator: LinearOperator) -> Solver:
    """A solver of this name, with its defaults.

    Args:
        name: one of `SOLVER_NAMES`, not `"auto"`.
        operator: curvature without damping, whose size some defaults follow.
    """
    return _NAMED[name](operator)
