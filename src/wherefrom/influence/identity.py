"""What scores are of: the fit, the queries and the measurement, as fingerprints, so that nothing of another
is taken for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wherefrom.errors import InputError
from wherefrom.influence.measurements import Measurement
from wherefrom.store import fingerprint
from wherefrom.task import Examples, Objective

Identity = Mapping[str, str]

_WORDS = {
    "fit": "another fit (its model, training data, loss or regulariser is not this one's)",
    "queries": "other queries than those given",
    "measurement": "another measurement",
}
_ADVICE = {
    "fit": "Compute them with this one.",
    "queries": "Pass the queries they were computed for, in the same order.",
    "measurement": "Pass the same measurement here as to scores().",
}


def fit_identity(objective: Objective) -> str:
    """A fingerprint of model, data, loss and regulariser."""
    return fingerprint({**objective.identity(), "regulariser": objective.regulariser.settings()})


def identity_of(fit: str, examples: Examples, measured: Measurement) -> dict[str, str]:
    """Of scores.

    Args:
        fit: its fingerprint.
        examples: the queries.
        measured: the measurement.
    """
    return {
        "fit": fit,
        "queries": examples.fingerprint(),
        "measurement": fingerprint((measured.name, measured.function)),
    }


def require_same(name: str, found: Identity, expected: Identity) -> None:
    """Refuse what was computed for something else. What either side does not know is not compared: scores
    that a user made, or that an earlier version wrote.

    Args:
        name: of the argument.
        found: its identity.
        expected: what it must be of.

    Raises:
        InputError: naming what differs.
    """
    for key, words in _WORDS.items():
        if key in found and key in expected and found[key] != expected[key]:
            raise InputError(f"{name} are of {words}. {_ADVICE[key]}")


def same_measurement(found: Identity, measured: Measurement) -> bool | None:
    """Whether scores are of this very measurement; `None` where they do not say."""
    known: Any = found.get("measurement")
    return None if known is None else known == fingerprint((measured.name, measured.function))
