"""What the parts of `Influence` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whence.errors import InputError
from whence.influence import FittedInfluence
from whence.store.not_pickled import NotPickled


class Held(NotPickled):
    """The training set as it was given, and what `fit` computed.

    Attributes:
        train: the training set.
    """

    train: Any
    _fitted: FittedInfluence | None
    _run_dir: Path | None

    @property
    def fitted(self) -> FittedInfluence:
        """What `fit` computed.

        Raises:
            InputError: `fit` was not called.
        """
        if self._fitted is None:
            raise InputError("this Influence is not fitted yet: call .fit() first")
        return self._fitted
