"""What is said of an automatic choice before anything long is started."""

from __future__ import annotations

from wherefrom.progress import say
from wherefrom.solvers import Solver


def say_choice(asked: Solver | str, chosen: Solver, reason: str, *, enabled: bool) -> None:
    """The solver that was chosen, why, and what others would take, on a terminal; nothing of a solver that
    was asked for."""
    if isinstance(asked, str) and asked == "auto":
        say(f"solver {chosen.name}: {reason}", enabled=enabled)
