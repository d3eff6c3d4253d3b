"""From the inputs of training examples to the features that the head reads, differentiably."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wherefrom.influence.continuous_input import ContinuousInput
from wherefrom.studies.attack.head import HeadProblem
from wherefrom.task import differentiable_attention


class FeatureReader:
    """The frozen part of the model, as a function of the inputs of training examples.

    Args:
        problem: gives the model and its head.
        where: which tensor of a batch the input is.
        batch_size: examples that go through the model together.
    """

    def __init__(self, problem: HeadProblem, where: ContinuousInput, batch_size: int = 128):
        self.problem = problem
        self.where = where
        self.batch_size = batch_size
        self._gains: dict[float, Tensor] = {}

    def inputs(self, index: Int[Tensor, " b"]) -> Float[Tensor, " b *x"]:
        """The unedited inputs."""
        return self.where.read(self.problem.objective.examples.batch(index)).detach()

    def __call__(self, index: Int[Tensor, " b"], x: Float[Tensor, " b *x"]) -> Float[Tensor, "b d"]:
        """Features, with a 1 for the bias, of training examples whose inputs are `x`; a graph back to `x` is
        kept if that requires gradients."""
        parts = [
            self._read(which, part)
            for which, part in zip(index.split(self.batch_size), x.split(self.batch_size))
        ]
        return self.problem.with_one(torch.cat(parts))

    def gains(self, order: float) -> Float[Tensor, " n"]:
        """`‖J_iᵀ v‖ / ‖v‖` with `J_i = ∂e_i/∂x_i` and `v = ∇_e ℓ_i`: how much of a gradient in the features
        reaches the input of each training example, judged by one direction. Computed once."""
        if order not in self._gains:
            problem, parts = self.problem, []
            for index in torch.arange(problem.n).split(self.batch_size):
                index = index.to(problem.features.device)
                x = self.inputs(index).clone().requires_grad_()
                with torch.enable_grad():
                    features = self(index, x)
                slope = self._loss_slope(index, features.detach())
                (made,) = torch.autograd.grad(features, x, slope)
                size = slope[:, : problem.module.in_features].norm(dim=1)
                tiny = torch.finfo(size.dtype).tiny
                parts.append(made.flatten(1).norm(p=order, dim=1) / size.clamp(min=tiny))
            self._gains[order] = torch.cat(parts)
        return self._gains[order]

    def _loss_slope(self, index: Tensor, features: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        problem = self.problem
        leaf = features.requires_grad_()
        with torch.enable_grad():
            outputs = problem.shaped(problem.outputs(problem.start[None], leaf))
            (slope,) = torch.autograd.grad(
                problem.loss(outputs, problem.targets_of(index)).sum(), leaf, materialize_grads=True
            )
        return slope

    def _read(self, index: Tensor, x: Tensor) -> Tensor:
        problem = self.problem
        objective = problem.objective
        batch = self.where.write(objective.examples.batch(index), x)
        seen: list[Tensor] = []

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["input"])

        handle = problem.module.register_forward_pre_hook(record, with_kwargs=True)
        try:
            with torch.set_grad_enabled(x.requires_grad), differentiable_attention():
                objective.outputs(objective.parameters.values, batch)
        finally:
            handle.remove()
        return seen[0].reshape(len(x), -1)
