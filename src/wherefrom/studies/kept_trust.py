"""What retraining said of a fit, kept in the run directory: measured by one study, shown by all."""

from __future__ import annotations

from pathlib import Path

from wherefrom.influence import Attributor, Trust, trust_of
from wherefrom.influence.kept import identity_with_settings
from wherefrom.store import RunDirectory
from wherefrom.store.run_directory import TRUST

_RECORD = "verdict"


class KeptTrust:
    """The verdict of retraining for one attributor with its settings.

    Args:
        run_dir: of the run; every attributor has a place of its own in it.
        attributor: whose scores are verified.
    """

    def __init__(self, run_dir: Path, attributor: Attributor):
        self._attributor = attributor
        self._of = identity_with_settings(attributor)
        self._path = run_dir / TRUST / self._of[:16]

    def write(self, retraining: str) -> None:
        """Keep the verdict.

        Raises:
            StoreError: it cannot be written.
        """
        RunDirectory(self._path, {"of": self._of}).write(_RECORD, {"retraining": retraining})

    def added_to(self, trust: Trust) -> Trust:
        """The same trust with the verdict that was kept, if there is one.

        Raises:
            StoreError: the record is damaged.
        """
        if not self._path.exists():
            return trust
        known = RunDirectory(self._path, {"of": self._of}).read(_RECORD)
        if known is None:
            return trust
        return with_retraining(trust, self._attributor, known["retraining"])


def with_retraining(trust: Trust, attributor: Attributor, verdict: str | None) -> Trust:
    """The trust of an answer of this attributor where a verdict of retraining is known besides."""
    if verdict is None:
        return trust
    return trust_of(attributor, converged=trust.converged, retraining=verdict, retrained=trust.retrained)
