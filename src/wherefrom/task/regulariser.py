"""The regulariser `R(θ)`: part of the objective, and its Hessian part of the objective's curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.linalg import DiagonalOperator, LinearOperator
from wherefrom.task.parameters import ParameterSet, matching_names


class Regulariser(ABC):
    """`R(θ)`, its gradient and its Hessian at `θ̂`, added once to the mean loss (never per batch)."""

    @abstractmethod
    def gradient(self) -> Float[Tensor, " p"]:
        """`∇R(θ̂)`."""

    @abstractmethod
    def hessian(self) -> LinearOperator:
        """`∇²R(θ̂)`."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The arguments of `Objective` that make it, for other parameters of the same names."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON values for manifests."""


class WeightDecay(Regulariser):
    """`R(θ) = ½ Σ_j α_j θ_j²`, one `α` for all or one for each parameter.

    Args:
        parameters: the studied parameters.
        weight_decay: `α ≥ 0`, or a mapping from a name, glob or submodule name to its `α`; parameters that no
            key matches get 0, and the last key that matches counts.

    Raises:
        InputError: a negative or non-finite `α`, or a key that matches no parameter.
    """

    def __init__(self, parameters: ParameterSet, weight_decay: float | Mapping[str, float]):
        table = weight_decay if isinstance(weight_decay, Mapping) else {"*": weight_decay}
        per_name = dict.fromkeys(parameters.names, 0.0)
        for pattern, alpha in table.items():
            if isinstance(alpha, Tensor) and alpha.ndim == 0:
                alpha = alpha.item()
            alpha = number("weight_decay", alpha, least=0, expected="a finite number ≥ 0")
            found = matching_names(parameters.names, pattern)
            if not found:
                raise InputError(
                    f"weight_decay: {pattern!r} matches none of {', '.join(parameters.names[:8])}"
                )
            per_name.update(dict.fromkeys(found, float(alpha)))
        self.per_name = per_name
        self._values = parameters.flat()
        self.diagonal = torch.cat(
            [torch.full_like(value, per_name[name]).reshape(-1) for name, value in parameters.values.items()]
        )

    def gradient(self) -> Float[Tensor, " p"]:
        return self.diagonal * self._values

    def hessian(self) -> DiagonalOperator:
        return DiagonalOperator(self.diagonal)

    def arguments(self) -> dict[str, Any]:
        return {"weight_decay": self.per_name}

    def settings(self) -> dict[str, Any]:
        values = set(self.per_name.values())
        return {"weight_decay": values.pop() if len(values) == 1 else dict(self.per_name)}


class CustomRegulariser(Regulariser):
    """Any twice differentiable `R`, given as a function of the named parameters.

    Args:
        parameters: the studied parameters.
        function: maps `{name: tensor}` to a scalar tensor.

    Raises:
        InputError: the function does not return one finite number that depends on the parameters.
    """

    def __init__(self, parameters: ParameterSet, function: Callable[[dict[str, Tensor]], Tensor]):
        self.parameters = parameters
        self.function = function
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.values.items()}
        with torch.enable_grad():
            value = function(leaves)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise InputError(
                "regulariser: expected a function of {name: tensor} that returns one differentiable number, "
                f"found {type(value).__name__} {tuple(value.shape) if isinstance(value, Tensor) else ''}"
            )
        if not bool(torch.isfinite(value)):
            raise NonFiniteError("regulariser: its value at the trained parameters is NaN or infinite")
        self._leaves = list(leaves.values())
        with torch.enable_grad():
            first = torch.autograd.grad(
                value.reshape(()), self._leaves, create_graph=True, materialize_grads=True
            )
            self._flat_gradient = torch.cat([part.reshape(-1) for part in first])

    def gradient(self) -> Float[Tensor, " p"]:
        return self._flat_gradient.detach()

    def hessian(self) -> LinearOperator:
        return _GraphHessian(self.parameters, self._leaves, self._flat_gradient)

    def arguments(self) -> dict[str, Any]:
        return {"regulariser": self.function}

    def settings(self) -> dict[str, Any]:
        return {"regulariser": getattr(self.function, "__qualname__", repr(self.function))}


class _GraphHessian(LinearOperator):
    """Second backward through a kept graph of the gradient."""

    def __init__(self, parameters: ParameterSet, leaves: list[Tensor], gradient: Tensor):
        super().__init__(parameters.size, parameters.dtype, parameters.device)
        self._parameters = parameters
        self._leaves = leaves
        self._gradient = gradient

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        if not self._gradient.requires_grad:  # linear in the parameters: no curvature
            return torch.zeros_like(vectors)
        return self._parameters.batched_gradient(self._gradient, self._leaves, vectors.T).T
