"""What gradient descent minimises without being asked: the modified loss of its backward error analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from wherefrom.arguments import whole
from wherefrom.errors import DivergenceError, InputError
from wherefrom.studies.geometry.penalties import _finite, _loss_and_squared_gradient
from wherefrom.task import Objective

Function = Callable[[Tensor], Tensor]  # flat parameters (p,) -> one number

# Local errors of the flow's integration: far below what one step of gradient descent leaves.
_RELATIVE, _ABSOLUTE = 1e-10, 1e-12


def modified_loss(model: nn.Module, loss: Any, x: Any, y: Any, learning_rate: float) -> Float[Tensor, ""]:
    """`L̃ = L + (learning_rate/4) ‖∇_θ L‖²`, with a graph.

    Gradient descent on `L` with this step follows the gradient flow of `L̃` up to an error of second order in
    the step, where the flow of `L` itself is off at first order.

    Args:
        model, loss, x, y: as for `parameter_gradient_penalty`; `L` is the batch's mean loss.
        learning_rate: the step of gradient descent; 0 gives `L`.

    Raises:
        InputError: a learning rate that is negative or not finite, and as for `parameter_gradient_penalty`.

    Source: Barrett & Dherin 2021, "Implicit gradient regularization", Theorem 3.1.
    """
    _check_rate(learning_rate)
    mean, squared = _loss_and_squared_gradient(model, loss, x, y)
    return _finite(mean + learning_rate / 4 * squared, "modified_loss")


def mean_loss(objective: Objective) -> Function:
    """`(1/n) Σ ℓ_i` over the objective's examples, without its regulariser, as a function of `θ` `(p,)`.

    All examples go through one batch: meant for small problems.
    """
    batch = objective.examples.batch(slice(0, objective.n))
    return lambda flat: objective.losses(objective.parameters.unflatten(flat), batch).mean()


def gradient_descent(
    function: Function, start: Float[Tensor, " p"], learning_rate: float, steps: int
) -> Float[Tensor, " p"]:
    """Parameters after `steps` steps `θ ← θ − learning_rate · ∇L(θ)` from `start`, which is not changed.

    Raises:
        InputError: a bad learning rate or number of steps, or a start that is not float64 and flat.
        DivergenceError: the parameters left the finite numbers.
    """
    _check_rate(learning_rate)
    _check_start(start)
    whole("steps", steps, 0)
    at = start.detach().clone()
    for step in range(steps):
        at = at - learning_rate * _descent(function, at, 0.0)
        if not bool(torch.isfinite(at).all()):
            raise DivergenceError(
                f"gradient descent left the finite numbers at step {step + 1} of {steps} with "
                f"learning_rate={learning_rate}; expected a step below 2/λ_max. Lower it."
            )
    return at


def gradient_flow(
    function: Function, start: Float[Tensor, " p"], time: float, *, learning_rate: float = 0.0
) -> Float[Tensor, " p"]:
    """`θ(time)` of `dθ/dt = −∇L̃(θ)`, `θ(0) = start`, with `L̃ = L + (learning_rate/4) ‖∇L‖²`.

    Args:
        function: `L`, twice differentiable.
        start: float64.
        time: at least 0; `k` steps of gradient descent last `k · learning_rate`.
        learning_rate: 0 gives the flow on `L` itself.

    Integrated by an explicit Runge-Kutta method of order 8 with a relative error of 1e-10 per step.

    Raises:
        InputError: a bad time, learning rate or start.
        DivergenceError: the integration stopped early.
    """
    _check_rate(learning_rate)
    _check_start(start)
    if not (np.isfinite(time) and time >= 0):
        raise InputError(f"time={time}: expected a finite number of at least 0")
    if time == 0:
        return start.detach().clone()

    def field(_: float, at: np.ndarray) -> np.ndarray:
        flat = torch.as_tensor(at, dtype=torch.float64, device=start.device)
        return -_descent(function, flat, learning_rate).cpu().numpy()

    solved = solve_ivp(
        field, (0.0, float(time)), start.detach().cpu().numpy(), "DOP853", rtol=_RELATIVE, atol=_ABSOLUTE
    )
    if not solved.success:
        raise DivergenceError(
            f"the gradient flow could not be followed beyond time {solved.t[-1]:.3g} of {time:.3g}: "
            f"{solved.message} Expected a loss bounded below and smooth along the way."
        )
    return torch.as_tensor(solved.y[:, -1], dtype=torch.float64, device=start.device)


@dataclass(frozen=True)
class FlowErrors:
    """How far gradient descent ends from two flows after the same time.

    Attributes:
        learning_rates: `(k,)`, falling.
        steps: `(k,)`, of gradient descent: `steps · learning_rate` is the same time for all.
        plain: `(k,)`, distance to the flow on `L`.
        modified: `(k,)`, distance to the flow on `L + (learning_rate/4) ‖∇L‖²`.
    """

    learning_rates: tuple[float, ...]
    steps: tuple[int, ...]
    plain: tuple[float, ...]
    modified: tuple[float, ...]

    @property
    def plain_order(self) -> float:
        """Slope of `log plain` in `log learning_rate` between the two smallest steps; 1 in the limit."""
        return self._order(self.plain)

    @property
    def modified_order(self) -> float:
        """The same of `modified`; 2 in the limit."""
        return self._order(self.modified)

    def _order(self, distances: tuple[float, ...]) -> float:
        (a, b), (u, v) = self.learning_rates[-2:], distances[-2:]
        return float(np.log(u / v) / np.log(a / b))


def flow_errors(
    function: Function, start: Float[Tensor, " p"], time: float, steps: Sequence[int] = (8, 16, 32, 64)
) -> FlowErrors:
    """Gradient descent against the flow on `L` and on the modified loss, for several steps over one `time`.

    Args:
        function, start, time: as for `gradient_flow`; `time` above 0.
        steps: how many steps cover `time`, rising: `learning_rate = time / steps`.

    Raises:
        InputError: fewer than two numbers of steps, not rising or below 1, or a bad time or start.
        DivergenceError: a step too large for this loss.
    """
    counts = tuple(steps)
    if len(counts) < 2 or counts[0] < 1 or counts != tuple(sorted(set(counts))):
        raise InputError(f"steps={counts}: expected at least two rising whole numbers of at least 1")
    if not time > 0:
        raise InputError(f"time={time}: expected more than 0")
    flow = gradient_flow(function, start, time)
    plain, modified = [], []
    for count in counts:
        rate = time / count
        end = gradient_descent(function, start, rate, count)
        plain.append(float((end - flow).norm()))
        modified.append(float((end - gradient_flow(function, start, time, learning_rate=rate)).norm()))
    return FlowErrors(tuple(time / count for count in counts), counts, tuple(plain), tuple(modified))


def _descent(function: Function, at: Tensor, learning_rate: float) -> Tensor:
    """`∇L̃ = ∇L + (learning_rate/2) ∇²L ∇L`."""
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=learning_rate > 0)
        if learning_rate == 0 or not gradient.requires_grad:
            return gradient.detach()
        (product,) = torch.autograd.grad(gradient.square().sum() / 2, leaf, materialize_grads=True)
    return gradient.detach() + learning_rate / 2 * product


def _check_rate(learning_rate: float) -> None:
    if not (np.isfinite(learning_rate) and learning_rate >= 0):
        raise InputError(f"learning_rate={learning_rate}: expected a finite number of at least 0")


def _check_start(start: Tensor) -> None:
    if start.dtype != torch.float64:
        raise InputError(
            f"start has dtype {start.dtype}; expected torch.float64: the distances between flow and descent "
            "drown in the rounding of anything shorter. Pass start.double()."
        )
