"""What may precondition an iterative solver: an operator, or a solver whose answer is a fixed linear map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.linalg import LinearOperator
from wherefrom.solvers.base import PreparedSolver, Solver


class InverseOperator(LinearOperator):
    """`M⁻¹ ≈ C_λ⁻¹` given by the function that applies it; symmetric and positive definite.

    Args:
        apply: maps `(p, k)` to `(p, k)`, linearly.
        like: operator whose size, dtype and device it shares.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], like: LinearOperator):
        super().__init__(like.size, like.dtype, like.device, 0.0)
        self._apply = apply

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        return self._apply(vectors)


def check_preconditioner(preconditioner: Any, *, required: bool) -> None:
    """Refuse what is neither a `LinearOperator` nor a `Solver`.

    Raises:
        InputError: of another type, or `None` where one is `required`.
    """
    if preconditioner is None and not required:
        return
    if not isinstance(preconditioner, (LinearOperator, Solver)):
        found = type(preconditioner).__name__
        raise InputError(
            f"preconditioner: found {found}; expected a Solver such as Nystrom(), a LinearOperator that "
            f"approximates C_λ⁻¹{'' if required else ', or None'}"
        )


def preconditioner_of(prepared: PreparedSolver) -> LinearOperator | None:
    """The fixed map that a prepared solver applies; `None` for one that iterates anew each time."""
    try:
        return prepared.as_preconditioner()
    except UnsupportedError:
        return None


def prepare_preconditioner(
    preconditioner: LinearOperator | Solver, operator: LinearOperator, seed: int
) -> LinearOperator:
    """`M⁻¹`: an operator as given, or that of a solver prepared on the same damped `operator`.

    Raises:
        InputError: an operator of another size, dtype or device.
        UnsupportedError: the solver's answer is no fixed linear map of the right-hand side.
    """
    if isinstance(preconditioner, Solver):
        return preconditioner.prepare(operator, seed=seed).as_preconditioner()
    found = (preconditioner.size, preconditioner.dtype, torch.device(preconditioner.device))
    expected = (operator.size, operator.dtype, torch.device(operator.device))
    if found != expected:
        raise InputError(
            f"preconditioner has size, dtype, device {tuple(map(str, found))}; expected those of the "
            f"curvature, {tuple(map(str, expected))}"
        )
    return preconditioner


def preconditioner_settings(preconditioner: LinearOperator | Solver | None) -> Any:
    """JSON value that defines it: a solver's settings, an operator's class name, or `None`."""
    if preconditioner is None:
        return None
    return preconditioner.settings() if isinstance(preconditioner, Solver) else type(preconditioner).__name__
