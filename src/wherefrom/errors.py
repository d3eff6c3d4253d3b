"""Every exception Wherefrom raises on purpose; each message names what was found, what was expected and the
fix."""

from __future__ import annotations

from functools import partial
from typing import Any


class WherefromError(Exception):
    """Base of all errors raised by Wherefrom."""


class InputError(WherefromError, ValueError):
    """An argument, a model, a loss or a data set that cannot be used as given."""


class NonFiniteError(InputError):
    """NaN or infinity in data, parameters, outputs or losses."""


class BatchDependenceError(InputError):
    """An example's loss changes with the other examples of its batch, or from call to call."""


class UnsupportedError(InputError):
    """Well defined, but Wherefrom does not compute it; never approximated in silence."""


class NotPositiveDefiniteError(WherefromError, ArithmeticError):
    """The damped curvature is not positive definite, so `C_λ⁻¹` is no influence.

    Attributes:
        eigenvalue: the most negative eigenvalue found, or an upper bound of it.
        damping: the damping that would repair it.
    """

    def __init__(self, message: str, *, eigenvalue: float, damping: float):
        super().__init__(message)
        self.eigenvalue = eigenvalue
        self.damping = damping

    def __reduce__(self) -> Any:
        # Errors cross to other processes by pickle, which calls with the message alone.
        return partial(type(self), eigenvalue=self.eigenvalue, damping=self.damping), self.args


class DivergenceError(WherefromError, ArithmeticError):
    """An iteration grew instead of converging."""


class OutOfMemoryError(WherefromError, MemoryError):
    """Memory ran out; the message names the stage and the setting that lowers its use."""


class StoreError(WherefromError, OSError):
    """A run directory that cannot be read, written or does not belong to this model and data."""


class ConvergenceError(WherefromError, ArithmeticError):
    """A training or retraining that did not reach its optimum; raise it from a recipe to have the run left
    out and reported."""
