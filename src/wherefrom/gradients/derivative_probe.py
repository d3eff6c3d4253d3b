"""A few examples of an objective in float64, and directions to move its parameters in: what derivatives are
held against finite differences with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from wherefrom.linalg.finite_differences import SHORT_STEPS, STEPS, Discrepancy, discrepancy
from wherefrom.task import Objective, differentiable_attention

# Examples that are asked, and vectors that outputs or gradients are projected on.
EXAMPLES, PROJECTIONS = 8, 3
# Copies of the parameters that a check in float64 holds at once, and what they may take of the budget.
_COPIES = 8
_SHARE = 0.5


@dataclass(frozen=True)
class DerivativeProbe:
    """Where derivatives are checked.

    Attributes:
        objective: in float64 where the model can be computed in it, as it is otherwise.
        batch: a few training examples, in its dtype.
        direction: for every studied parameter; `h = 1` moves an entry by about its tensor's own size.
        steps: that differences are taken at.
        exact: whether it is float64: without it a kink between two steps cannot be told from curvature.
    """

    objective: Objective
    batch: Any
    direction: dict[str, Tensor]
    steps: Sequence[float]
    exact: bool

    def compare(
        self, function: Callable[[dict[str, Tensor]], Tensor], claimed: Tensor, *, only: str | None = None
    ) -> Discrepancy | None:
        """`claimed` against the slope of a function of the named parameters along `direction`, or along the
        part of it that belongs to one parameter."""
        return discrepancy(lambda h: function(self.moved(h, only)), claimed, steps=self.steps)

    def moved(self, step: float, only: str | None = None) -> dict[str, Tensor]:
        """`θ̂ + h v`."""
        values = self.objective.parameters.values
        return {
            name: value if only not in (None, name) else value + step * self.direction[name]
            for name, value in values.items()
        }

    def random(self, count: int, like: Tensor) -> Tensor:
        """The same `count` standard normal tensors `(count, *like.shape)` at every call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, *like.shape, generator=generator, dtype=torch.float64).to(like)

    def project(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Projections of one tensor per parameter on a few random ones each, scaled as `direction` is: what
        a vector of their size says, in a few numbers."""
        generator = torch.Generator().manual_seed(2)
        made = []
        for value, gradient in zip(self.objective.parameters.values.values(), gradients):
            size = _size(value)
            for _ in range(PROJECTIONS):
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
                made.append(value.new_zeros(()) if gradient is None else size * (drawn * gradient).sum())
        return torch.stack(made)


def probe(objective: Objective, bytes_each: int | float = 0) -> DerivativeProbe:
    """A few training examples in float64.

    Args:
        bytes_each: what the graph of an example takes; few examples are taken where that is much.
    """
    room = objective.memory * _SHARE / max(1, 2 * bytes_each)
    index = objective.examples.spread(int(max(1, min(EXAMPLES, room))))
    batch = objective.examples.batch(index)
    if objective.dtype == torch.float64:
        return parameter_probe(objective, batch, STEPS, True)
    if 8 * _COPIES * objective.p <= objective.memory * _SHARE:
        try:
            wide, wide_batch = in_float64(objective), tree_map(_double, batch)
            parts = gradient_at(wide, wide.parameters.values, wide_batch)
            if all(part is None or part.dtype == torch.float64 for part in parts):
                return parameter_probe(wide, wide_batch, STEPS, True)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            pass  # tensors made inside the model, or a device, are float32 only
    return parameter_probe(objective, batch, SHORT_STEPS, False)


def parameter_probe(objective: Objective, batch: Any, steps: Sequence[float], exact: bool) -> DerivativeProbe:
    """A probe of this objective on this batch, in their own dtype."""
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: _size(value) * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for name, value in objective.parameters.values.items()
    }
    return DerivativeProbe(objective, batch, direction, steps, exact)


def in_float64(objective: Objective) -> Objective:
    """The same objective with parameters and constants in float64; its examples are read as they were."""
    wide = copy.copy(objective)
    wide.parameters = copy.copy(objective.parameters)
    wide.parameters.values = {name: value.double() for name, value in objective.parameters.values.items()}
    wide.parameters.dtype = wide.dtype = torch.float64
    wide.constants = {name: _double(value) for name, value in objective.constants.items()}
    return wide


def gradient_at(objective: Objective, values: Mapping[str, Tensor], batch: Any) -> list[Tensor | None]:
    """`Σ_b ∇ℓ_i` at these parameters."""
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    with torch.enable_grad(), differentiable_attention():
        total = objective.losses(leaves, batch).sum()
        return list(torch.autograd.grad(total, list(leaves.values()), allow_unused=True))


def own_functions(*tensors: Tensor) -> list[str]:
    """Names of the `autograd.Function`s that are not torch's own in the graphs of these tensors."""
    found: dict[str, None] = {}
    for node in _nodes(tensors):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found[type(node).__name__.removesuffix("Backward")] = None
    return list(found)


def _nodes(tensors: Sequence[Tensor]) -> Iterator[Any]:
    todo = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                todo.append(child)


def _size(value: Tensor) -> float:
    """Of an entry; 1 for a tensor of zeros."""
    return float(value.square().mean().sqrt()) or 1.0 if value.numel() else 1.0


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
