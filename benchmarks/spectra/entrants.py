"""Who answers which question, and the ladders of settings that each climbs until it meets the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Rung = tuple[str, dict[str, Any]]  # the adapter's method and its settings

LIBRARIES = ("wherefrom", "curvlinops", "pyhessian", "hessian_eigenthings")
QUESTIONS = ("eigenvalues", "trace", "density")
# Wherefrom again, without the timing of both orders of differentiation that its default starts with.
FIXED = "wherefrom_fixed"
MODE = "reverse_over_reverse"
LABELS = {
    "wherefrom": "Wherefrom",
    FIXED: "Wherefrom, order fixed",
    "curvlinops": "curvlinops",
    "pyhessian": "PyHessian",
    "hessian_eigenthings": "hessian-eigenthings",
}
# Largest relative error of the 10 eigenvalues; root mean square of the trace's relative error. The spectral
# distribution has no target: all spend the same products.
TARGETS = {"eigenvalues": 1e-3, "trace": 0.03}
# Seeds timed together in one round; a rung is judged at the seeds of all rounds.
TIMED = {"eigenvalues": 1, "trace": 2, "density": 1}
DENSITY: Rung = ("density", {"steps": 64, "starts": 4})

_TRACE_METHODS = {
    "wherefrom": ("xtrace", "hutch++"),
    "curvlinops": ("xtrace", "hutch++"),
    "pyhessian": (),
    "hessian_eigenthings": ("hutch++",),
}
_BUDGETS = (24, 36, 48, 72, 96, 144, 240)


@dataclass(frozen=True)
class Entrant:
    library: str
    question: str
    problem: str

    @property
    def adapter(self) -> str:
        return "wherefrom" if self.library == FIXED else self.library

    @property
    def key(self) -> str:
        return f"{self.problem}.{self.question}.{self.library}"

    def ladders(self, probe_error: float) -> list[list[Rung]]:
        """Rungs from cheap to dear; the cheapest that meets the target over all ladders is timed.

        `probe_error` is the relative standard deviation of one Hutchinson probe: Hutchinson's ladder starts
        at the number of probes that it asks for, and is climbed only where a library has no better method
        (the others meet the target with fewer products)."""
        if self.question == "eigenvalues":
            return _eigenvalues(self.library)
        if self.question == "density":
            return [[DENSITY]]
        probes = math.ceil((probe_error / TARGETS["trace"]) ** 2)
        if not _TRACE_METHODS[self.library]:
            return [[("hutchinson", {"products": math.ceil(f * probes)}) for f in (1, 1.5, 2, 3)]]
        return [[(m, {"products": b}) for b in _BUDGETS] for m in _TRACE_METHODS[self.library]]


def _eigenvalues(library: str) -> list[list[Rung]]:
    def ladder(name: str, values: tuple[float, ...], **others: Any) -> list[Rung]:
        return [("eigenvalues", {name: value, **others}) for value in values]

    if library == "wherefrom":
        return [ladder("tolerance", (0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4, 1e-5))]
    if library == "curvlinops":
        return [ladder("tolerance", (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4), basis=b) for b in (20, 30, 40)]
    if library == "pyhessian":
        return [ladder("tolerance", (1e-4, 3e-5, 1e-5, 1e-6), iterations=1000)]
    return [ladder("steps", (20, 25, 30, 35, 40, 45, 50, 60, 80, 120))]
