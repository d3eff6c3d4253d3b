"""Who competes, at which settings.

A ladder goes from cheap to dear. The harness takes the first rung whose scores meet the target (``TARGETS``),
so times compare at equal accuracy, and times only that rung. First rungs were chosen to just miss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Largest over queries of ‖s − s_ref‖ / ‖s_ref‖. A stochastic method is held to what it is used for: ranks.
TARGETS = {"exact": 1e-4, "cg": 1e-4, "lissa": 1e-1}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Competitor:
    """One method of one library on one task."""

    library: str
    method: str
    task: str
    curvature: str
    family: str
    ladder: tuple[Settings, ...] = field(default=({},))
    excluded: str = ""
    """Why it cannot run, in words for the table; empty if it runs."""

    @property
    def key(self) -> str:
        return f"{self.task}.{self.curvature}.{self.library}.{self.method}"

    @property
    def label(self) -> str:
        return f"{self.library} {self.method.replace('_', '-')}"


def _rungs(name: str, values: tuple[float, ...], **fixed: Any) -> tuple[Settings, ...]:
    return tuple({**fixed, name: value} for value in values)


_STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
_PRIMAL = "dense p × p matrix: 206 GiB"

COMPETITORS: tuple[Competitor, ...] = (
    # digits, exact
    Competitor("whence", "exact", "digits", "hessian", "exact"),
    Competitor("pydvl", "direct", "digits", "hessian", "exact"),
    Competitor("dattri", "explicit", "digits", "hessian", "exact"),
    Competitor("curvlinops", "dense", "digits", "hessian", "exact"),
    # digits, conjugate gradients
    Competitor("whence", "cg", "digits", "hessian", "cg", _rungs("rtol", _STEPS)),
    Competitor(
        "pydvl", "cg", "digits", "hessian", "cg", _rungs("tolerance", (1e-4, 3e-5, 1e-5), maxiter=500)
    ),
    Competitor(
        "pydvl",
        "block_cg",
        "digits",
        "hessian",
        "cg",
        _rungs("tolerance", (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5), maxiter=500),
    ),
    Competitor(
        "dattri",
        "cg",
        "digits",
        "hessian",
        "cg",
        _rungs("max_iter", (24, 26, 28, 32), mode="rev-fwd", query_batch=99),
    ),
    Competitor(
        "curvlinops",
        "cg",
        "digits",
        "hessian",
        "cg",
        _rungs("tolerance", (1e-4, 3e-5, 1e-5)),
    ),
    Competitor(
        "curvlinops",
        "scipy_cg",
        "digits",
        "hessian",
        "cg",
        _rungs("tolerance", (1e-4, 3e-5)),
    ),
    # digits, LiSSA
    Competitor(
        "whence",
        "lissa",
        "digits",
        "hessian",
        "lissa",
        (
            {"depth": 400, "scale": 1.0, "batch": 100, "repeats": 1},
            {"depth": 400, "scale": 1.0, "batch": 300, "repeats": 1},
            {"depth": 120, "scale": 0.5, "batch": 1500, "repeats": 1},
            {"depth": 180, "scale": 0.5, "batch": 1500, "repeats": 1},
        ),
    ),
    Competitor(
        "pydvl",
        "lissa",
        "digits",
        "hessian",
        "lissa",
        (
            {"depth": 400, "scale": 1.0, "batch": 100},
            {"depth": 400, "scale": 1.0, "batch": 300},
            {"depth": 120, "scale": 0.5, "batch": 1500},
            {"depth": 180, "scale": 0.5, "batch": 1500},
        ),
    ),
    # MLP, Hessian
    Competitor("whence", "cg", "mlp", "hessian", "cg", _rungs("rtol", _STEPS)),
    Competitor("pydvl", "direct", "mlp", "hessian", "exact", excluded=_PRIMAL),
    Competitor("dattri", "explicit", "mlp", "hessian", "exact", excluded=_PRIMAL),
    Competitor("pydvl", "cg", "mlp", "hessian", "cg", _rungs("tolerance", (1e-3, 3e-4, 1e-4), maxiter=200)),
    Competitor(
        "pydvl", "block_cg", "mlp", "hessian", "cg", _rungs("tolerance", (3e-3, 1e-3, 3e-4), maxiter=200)
    ),
    Competitor(
        "dattri",
        "cg",
        "mlp",
        "hessian",
        "cg",
        _rungs("max_iter", (40, 48, 60), mode="rev-fwd", query_batch=5),
    ),
    Competitor(
        "curvlinops",
        "cg",
        "mlp",
        "hessian",
        "cg",
        _rungs("tolerance", (1e-4, 5e-5, 2e-5)),
    ),
    # MLP, GGN
    Competitor("whence", "exact", "mlp", "ggn", "exact"),
    Competitor("whence", "cg", "mlp", "ggn", "cg", _rungs("rtol", _STEPS)),
    Competitor("curvlinops", "cg", "mlp", "ggn", "cg", _rungs("tolerance", (1e-4, 5e-5, 2e-5))),
)
