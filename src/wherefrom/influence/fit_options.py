"""What a user may choose of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.gradients import HvpMode
from wherefrom.gradients.hvp import HVP_MODES
from wherefrom.solvers import RelativeDamping, Solver, require_solver


@dataclass(frozen=True)
class FitOptions:
    """What the user may choose; every field has a default that works.

    Raises:
        InputError: a batch size, a number of draws or a seed that is no such integer, or an unknown
            `hvp_mode`.
    """

    curvature: str = "auto"
    solver: Solver | str = "auto"
    damping: float | RelativeDamping | Literal["auto"] = "auto"
    batch_size: int | None = None
    hvp_mode: HvpMode | Literal["auto"] = "auto"
    fisher_draws: int = 1
    seed: int = 0
    progress: bool = True
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        require_solver(self.solver)
        batch_words = "None (chosen from memory=) or a whole number of at least 1"
        if self.batch_size is not None:
            self._set("batch_size", whole("batch_size", self.batch_size, 1, expected=batch_words))
        self._set("fisher_draws", whole("fisher_draws", self.fisher_draws, 1))
        self._set("seed", whole("seed", self.seed))
        modes = ("auto", *HVP_MODES)
        if not isinstance(self.hvp_mode, str) or self.hvp_mode not in modes:
            raise InputError(
                f"hvp_mode={self.hvp_mode!r}: expected one of {', '.join(map(repr, modes))}; 'auto' takes "
                "the faster of the two"
            )

    def _set(self, name: str, value: int) -> None:
        object.__setattr__(self, name, value)  # NumPy's integers are no JSON values
