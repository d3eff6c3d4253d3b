"""Finds each competitor's first rung whose scores meet the target, and remembers it on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from competitors import TARGETS, Competitor, Settings
from environments import REQUIREMENTS
from measure import Run


class Calibration:
    """A JSON file: competitor, its release, ladder and task fingerprint → the rung.

    Wherefrom is never remembered: its code changes between runs.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def choose(
        self, competitor: Competitor, attempt: Callable[[Settings], Run], tell: Callable[[str], None]
    ) -> tuple[Settings | None, Run | None]:
        """The settings and, unless they were remembered, their run; ``None`` and the most accurate run if no
        rung meets the target."""
        name = self._name(competitor)
        if name in self._known:
            return competitor.ladder[self._known[name]], None
        best: Run | None = None
        for rung, settings in enumerate(competitor.ladder):
            tell(f"calibrating {competitor.task} {competitor.label} {settings}")
            run = attempt(settings)
            if best is None or run.error < best.error:
                best = run
            if run.error <= TARGETS[competitor.family]:
                if competitor.library != "wherefrom":
                    self._known[name] = rung
                    self._path.write_text(json.dumps(self._known, indent=1))
                return settings, run
            if run.failure:
                break
        return None, best

    def _name(self, competitor: Competitor) -> str:
        release = " ".join(REQUIREMENTS.get(competitor.library, ()))
        ladder = json.dumps(competitor.ladder)
        return f"{competitor.key} | {release} | {self._fingerprint} | {TARGETS[competitor.family]} | {ladder}"
