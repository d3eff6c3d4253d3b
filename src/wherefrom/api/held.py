"""What the parts of `Influence` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wherefrom.errors import InputError
from wherefrom.influence import FittedInfluence
from wherefrom.store.not_pickled import NotPickled
from wherefrom.task import Objective, OneAtATime


class Held(OneAtATime, NotPickled):
    """The training set as it was given, and what `fit` computed."""

    objective: Objective
    _train: Any
    _fitted: FittedInfluence | None
    _run_dir: Path | None

    @property
    def train(self) -> Any:
        """The training set.

        Raises:
            InputError: it changed since it was given.
        """
        self.objective.check_unchanged(data=True)
        return self._train

    @property
    def fitted(self) -> FittedInfluence:
        """What `fit` computed.

        Raises:
            InputError: `fit` was not called, or what it was fitted to changed since.
        """
        if self._fitted is None:
            raise InputError("this Influence is not fitted yet: call .fit() first")
        self.objective.check_unchanged()
        return self._fitted
