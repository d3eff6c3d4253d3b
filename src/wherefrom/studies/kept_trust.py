"""What retraining said of a fit, kept in the run directory: measured by one study, shown by all."""

from __future__ import annotations

from pathlib import Path

from wherefrom.influence import Attributor, Trust, trust_of
from wherefrom.store import RunDirectory, fingerprint

_RECORD = "verdict"


class KeptTrust:
    """The verdict of retraining for one attributor and its settings.

    Args:
        run_dir: of the run; each attributor has a place of its own in it.
        attributor: whose scores were verified.
    """

    def __init__(self, run_dir: Path, attributor: Attributor):
        self._attributor = attributor
        settings = {key: value for key, value in attributor.settings().items() if key not in _PASSING}
        of = fingerprint([attributor.identity, settings])
        self._directory = RunDirectory(run_dir / "trust" / of[:16], {"of": of})

    def write(self, retraining: str) -> None:
        """Keep the verdict.

        Raises:
            StoreError: it cannot be written.
        """
        self._directory.write(_RECORD, {"retraining": retraining})

    def added_to(self, trust: Trust) -> Trust:
        """The same trust with the verdict that was kept, if there is one.

        Raises:
            StoreError: the record is damaged.
        """
        known = self._directory.read(_RECORD)
        if known is None:
            return trust
        return trust_of(self._attributor, converged=trust.converged, retraining=known["retraining"])


# What changes from run to run and does not change scores beyond rounding.
_PASSING = ("memory", "batch_size", "solver_reason", "solver_notes", "damping_reason", "curvature_reason")
