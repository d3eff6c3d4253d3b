"""A ready-made recipe: full-batch minimisation to the optimum, for models small enough for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from wherefrom.arguments import number, whole
from wherefrom.errors import ConvergenceError, InputError
from wherefrom.losses import resolve_loss
from wherefrom.task import Objective, check_model
from wherefrom.task.batch import Forward, Target
from wherefrom.task.regulariser import WeightDecay

_BATCH = 4096


class FullBatch:
    """`recipe(train, seed, weights=None)`: L-BFGS on the whole training objective in float64, until the
    gradient vanishes.

    Args:
        model: gives the architecture and, with `warm_start`, the starting point.
        loss, weight_decay, regulariser, parameters, forward, target, collate: of the objective, as for
            `Influence`. A regulariser must stay finite and differentiable on the way to the optimum.
        warm_start: start from `model`'s parameters: the optimum nearby. Otherwise from a fresh initialisation
            with the seed given.
        divide_by: what the sum of the losses is divided by: `n` of the original training set keeps its
            weights `1/n` when examples are taken out or added (`reduction="sum"`); otherwise by the total
            weight, which makes it a mean.
        gradient_tolerance: stop when `‖∇J‖_∞` is below it; a run that stops earlier raises
            `ConvergenceError`.
        max_iterations: of L-BFGS.

    For a convex objective the result does not depend on start or seed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Any,
        weight_decay: float | Mapping[str, float] = 0.0,
        regulariser: Callable[[dict[str, Tensor]], Tensor] | None = None,
        parameters: Any = None,
        forward: Forward | None = None,
        target: Target | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        warm_start: bool = True,
        divide_by: float | int | None = None,
        gradient_tolerance: float = 1e-7,
        max_iterations: int = 5000,
    ):
        number("gradient_tolerance", gradient_tolerance, above=0)
        whole("max_iterations", max_iterations, 1)
        if divide_by is not None:
            words = "a positive number, the n of the weights 1/n"
            number("divide_by", divide_by, above=0, expected=words)
        self.model = model
        self.loss = loss
        self.weight_decay = weight_decay
        self.regulariser = regulariser
        self.parameters = parameters
        self.forward = forward
        self.target = target
        self.collate = collate
        self.warm_start = warm_start
        self.divide_by = divide_by
        self.gradient_tolerance = gradient_tolerance
        self.max_iterations = max_iterations

    def settings(self) -> dict[str, Any]:
        """JSON values that define the recipe; functions by name."""
        return {
            "warm_start": self.warm_start,
            "divide_by": self.divide_by,
            "gradient_tolerance": self.gradient_tolerance,
            "max_iterations": self.max_iterations,
            "weight_decay": dict(self.weight_decay)
            if isinstance(self.weight_decay, Mapping)
            else float(self.weight_decay),
            "loss": resolve_loss(self.loss).settings(),
            **{
                key: getattr(function, "__qualname__", type(function).__qualname__)
                for key in ("regulariser", "forward", "target", "collate")
                if (function := getattr(self, key)) is not None
            },
        }

    def __call__(self, train: Any, seed: int, weights: Float[Tensor, " n"] | None = None) -> nn.Module:
        """Train.

        Args:
            train: the training set.
            seed: of a fresh initialisation.
            weights: how many times each example counts; once if not given.

        Raises:
            ConvergenceError: the gradient did not vanish.
            InputError: another number of weights than examples, a weight that is no finite number ≥ 0, or the
                model's forward pass is random (dropout in training mode).
        """
        model = copy.deepcopy(self.model)
        check_model(model)
        if not self.warm_start:
            _reinitialise(model, seed)
        objective = Objective(
            model,
            train,
            loss=self.loss,
            parameters=self.parameters,
            weight_decay=self.weight_decay,
            regulariser=self.regulariser,
            forward=self.forward,
            target=self.target,
            collate=self.collate,
            dtype=torch.float64,
        )
        parameters = objective.parameters
        counts = _checked_weights(weights, objective.n)
        divisor = float(counts.sum()) if self.divide_by is None else float(self.divide_by)

        def penalty(theta: Tensor) -> Tensor:
            if self.regulariser is not None:
                return self.regulariser(parameters.unflatten(theta)).reshape(())
            assert isinstance(objective.regulariser, WeightDecay)
            return 0.5 * (objective.regulariser.diagonal * theta.square()).sum()

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            theta = torch.from_numpy(flat).requires_grad_()
            total = penalty(theta)
            for where, batch in objective.examples.batches(_BATCH):
                losses = objective.losses(parameters.unflatten(theta), batch)
                total = total + (losses if weights is None else counts[where] * losses).sum() / divisor
            (gradient,) = torch.autograd.grad(total, theta)
            return float(total.detach()), gradient.numpy()

        start: Tensor = parameters.flat()
        # SciPy's BLAS threads and torch's would wait for each other at every step.
        with threadpool_limits(1, user_api="blas"):
            result = optimize.minimize(
                value_and_gradient,
                start.numpy(),
                jac=True,
                method="L-BFGS-B",
                options={
                    "maxiter": self.max_iterations,
                    "maxfun": 2 * self.max_iterations,
                    "maxcor": 40,
                    "gtol": self.gradient_tolerance,
                    "ftol": 0.0,
                },
            )
        left = float(np.abs(result.jac).max())
        if not left <= self.gradient_tolerance:
            raise ConvergenceError(
                f"L-BFGS stopped with a largest gradient entry of {left:.2g} after {result.nit} iterations, "
                "above gradient_tolerance="
                f"{self.gradient_tolerance:g}: {result.message}"
            )
        with torch.no_grad():
            found = parameters.unflatten(torch.from_numpy(np.asarray(result.x)))
            for name, value in model.named_parameters():
                if name in found:
                    value.copy_(found[name])
        # Kept in double precision: effects of one example may be smaller than float32 resolves.
        return model.double()


def _checked_weights(weights: Float[Tensor, " n"] | None, n: int) -> Float[Tensor, " n"]:
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    counts = torch.as_tensor(weights, dtype=torch.float64)
    if counts.shape != (n,):
        raise InputError(f"weights has shape {tuple(counts.shape)}; expected ({n},), one for each example")
    if not bool(torch.isfinite(counts).all()) or bool((counts < 0).any()) or not bool(counts.any()):
        raise InputError(
            "weights holds a negative number, NaN or infinity, or zeros alone; expected some > 0"
        )
    return counts


def _reinitialise(model: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
