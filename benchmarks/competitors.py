"""Who competes, at which settings.

A ladder goes from cheap to dear. The harness takes the first rung whose scores meet the target (``TARGETS``),
so times compare at equal accuracy, and times only that rung. First rungs were chosen to just miss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Largest over queries of ‖s − s_ref‖ / ‖s_ref‖. Mini-batch noise falls like 1/√work, so LiSSA is held to
# what it is used for, rankings; the tables give its median error, too.
TARGETS = {"exact": 1e-4, "cg": 1e-4, "lissa": 3e-1}

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


_STEPS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
# Scales stay above half the largest eigenvalue of a mini-batch: over all examples that is 0.94 for digits
# (1.3 in batches of 100) and 8.4 for the MLP.
_LISSA = {
    "digits": (
        {"depth": 400, "scale": 1.0, "batch": 100},
        {"depth": 400, "scale": 1.0, "batch": 300},
        {"depth": 600, "scale": 1.0, "batch": 300},
    ),
    "mlp": ({"depth": 400, "scale": 12.0, "batch": 200}, {"depth": 400, "scale": 12.0, "batch": 500}),
}
_PRIMAL = "dense p × p matrix: 206 GiB"

COMPETITORS: tuple[Competitor, ...] = (
    # digits, exact
    Competitor("wherefrom", "exact", "digits", "hessian", "exact"),
    Competitor("pydvl", "direct", "digits", "hessian", "exact"),
    Competitor("dattri", "explicit", "digits", "hessian", "exact"),
    Competitor("curvlinops", "dense", "digits", "hessian", "exact"),
    # digits, conjugate gradients
    Competitor("wherefrom", "cg", "digits", "hessian", "cg", _rungs("rtol", _STEPS)),
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
    Competitor("wherefrom", "lissa", "digits", "hessian", "lissa", _LISSA["digits"]),
    Competitor("pydvl", "lissa", "digits", "hessian", "lissa", _LISSA["digits"]),
    # MLP, Hessian
    Competitor("wherefrom", "cg", "mlp", "hessian", "cg", _rungs("rtol", _STEPS)),
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
    Competitor("wherefrom", "lissa", "mlp", "hessian", "lissa", _LISSA["mlp"]),
    Competitor("pydvl", "lissa", "mlp", "hessian", "lissa", _LISSA["mlp"]),
    # MLP, GGN
    Competitor("wherefrom", "exact", "mlp", "ggn", "exact"),
    Competitor("wherefrom", "cg", "mlp", "ggn", "cg", _rungs("rtol", _STEPS)),
    Competitor("curvlinops", "cg", "mlp", "ggn", "cg", _rungs("tolerance", (1e-4, 5e-5, 2e-5))),
)
