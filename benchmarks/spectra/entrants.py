"""Who answers which question, and the ladders of settings that each climbs until it meets the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Rung = tuple[str, dict[str, Any]]  # the adapter's method and its settings

LIBRARIES = ("whence", "curvlinops", "pyhessian", "hessian_eigenthings")
QUESTIONS = ("eigenvalues", "trace", "density")
LABELS = {
    "whence": "Whence",
    "curvlinops": "curvlinops",
    "pyhessian": "PyHessian",
    "hessian_eigenthings": "hessian-eigenthings",
}
# Largest relative error of the 10 eigenvalues; root mean square of the trace's relative error; root mean
# square of the distance between spectral distributions, in units of the mean eigenvalue in modulus.
TARGETS = {"eigenvalues": 1e-3, "trace": 0.03, "density": 0.2}
# Seeds at which a rung is judged, and seeds timed together in one round.
JUDGED = {"eigenvalues": 1, "trace": 4, "density": 2}
TIMED = {"eigenvalues": 1, "trace": 2, "density": 1}

_TRACE_METHODS = {
    "whence": ("xtrace", "hutch++"),
    "curvlinops": ("xtrace", "hutch++"),
    "pyhessian": (),
    "hessian_eigenthings": ("hutch++",),
}
_BUDGETS = (24, 48, 90, 120, 180, 240)


@dataclass(frozen=True)
class Entrant:
    library: str
    question: str
    problem: str

    @property
    def key(self) -> str:
        return f"{self.problem}.{self.question}.{self.library}"

    def ladders(self, probe_error: float) -> list[list[Rung]]:
        """Rungs from cheap to dear; the cheapest that meets the target over all ladders is timed.

        `probe_error` is the relative standard deviation of one Hutchinson probe: it gives the number of
        probes that the target needs, so that Hutchinson's ladder has one rung."""
        if self.question == "eigenvalues":
            return _eigenvalues(self.library)
        if self.question == "density":
            return [[("density", {"steps": 16, "starts": starts}) for starts in (1, 2, 4, 8, 16, 32)]]
        probes = math.ceil((probe_error / TARGETS["trace"]) ** 2)
        ladders = [[(m, {"products": b}) for b in _BUDGETS] for m in _TRACE_METHODS[self.library]]
        return [*ladders, [("hutchinson", {"products": probes})]]


def _eigenvalues(library: str) -> list[list[Rung]]:
    def ladder(name: str, values: tuple[float, ...], **others: Any) -> list[Rung]:
        return [("eigenvalues", {name: value, **others}) for value in values]

    if library == "whence":
        return [ladder("tolerance", (0.01, 0.005, 0.002, 0.001, 3e-4))]
    if library == "curvlinops":
        return [ladder("tolerance", (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4), basis=b) for b in (20, 40)]
    if library == "pyhessian":
        return [ladder("tolerance", (1e-3, 1e-4, 1e-5, 1e-6), iterations=1000)]
    return [ladder("steps", (20, 25, 30, 35, 40, 50, 60, 80, 120))]
