"""What needs more of an attributor than scores, asked for by name."""

from __future__ import annotations

from wherefrom.influence.attributor import Attributor
from wherefrom.influence.fit import Fit


def as_fit(attributor: Attributor, what: str) -> Fit:
    """The same, where it is an influence function.

    Args:
        attributor: any.
        what: needs the gradients and the curvature of one, for the error.

    Raises:
        UnsupportedError: it is another method.
    """
    if isinstance(attributor, Fit):
        return attributor
    attributor.refuse(what, "gradients and curvature, which this is made of")
