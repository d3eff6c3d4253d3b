"""The objective of an edited training set, seen from `θ̂`: its gradient and curvature there, and its gradient
elsewhere."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import choice
from wherefrom.curvature import CurvatureOfExamples, WeightedExamples
from wherefrom.errors import InputError
from wherefrom.gradients import ExampleGradients
from wherefrom.influence import Fit
from wherefrom.interventions.classes import require_classes
from wherefrom.interventions.edits import Edits
from wherefrom.linalg import LinearOperator
from wherefrom.task import Data, Examples, check_examples, sum_over_batches

Reduction = Literal["mean", "sum"]


class EditedObjective:
    """`J'(θ) = s Σ_j w_j ℓ(z_j, θ) + R(θ)` with the weights `w_j` in units of `1/n`.

    Args:
        fitted: at the trained parameters.
        train: the training set.
        edits: what is changed.
        reduction: `"mean"` averages over what is left (`s = n/n'` with `n'` the total weight), as a recipe
            does that takes a mean; `"sum"` keeps the weights `1/n` of all others (`s = 1`).

    Attributes:
        scale: `s`.
        parts: the examples whose weight changes, with that change, of either sign.

    Raises:
        InputError: no edit, edited examples that the model or loss does not take (a label outside the
            classes among them), a class of which nothing is left, or an unknown `reduction`.
    """

    def __init__(self, fitted: Fit, train: Data, edits: Edits, reduction: Reduction = "mean"):
        choice("reduction", reduction, get_args(Reduction))
        if not edits.touched and not edits.added:
            raise InputError("the intervention is empty: expected at least one edit, such as remove([17])")
        self.fitted = fitted
        self.edits = edits
        objective = fitted.objective
        n = objective.n
        total = edits.total_weight(n)
        if total <= 0:
            raise InputError("the intervention leaves no weight on any example: nothing would be trained on")
        self.scale = n / total if reduction == "mean" else 1.0
        self._changed = sorted(edits.contents)
        self._new: Examples | None = None
        if edits.contents or edits.added:
            items = [*(edits.contents[i] for i in self._changed), *edits.added]
            self._new = objective.read(train.stack(items), role="edited examples")
            check_examples(objective, self._new, progress=False)
        require_classes(objective, self._new, edits, self._changed)
        self.parts = self._parts()

    def _new_weights(self) -> list[float]:
        """Of the contents and of the added, as multiples of `1/n`."""
        weights = self.edits.weights
        return [weights.get(i, 1.0) for i in self._changed] + [1.0] * len(self.edits.added)

    def _parts(self) -> list[WeightedExamples]:
        objective = self.fitted.objective
        by_weight: dict[float, list[int]] = {}
        for i in self.edits.touched:
            now = 0.0 if i in self.edits.contents else self.edits.weights[i]
            by_weight.setdefault(now - 1.0, []).append(i)
        parts = [_part(objective.examples, index, w / objective.n) for w, index in by_weight.items()]
        if self._new is not None:
            by_weight = {}
            for position, weight in enumerate(self._new_weights()):
                by_weight.setdefault(weight, []).append(position)
            parts += [_part(self._new, index, w / objective.n) for w, index in by_weight.items()]
        return [part for part in parts if part.weight != 0]

    def gradient_change(self) -> Float[Tensor, " p"]:
        """`∇J'(θ̂) − ∇J(θ̂)`: what the intervention adds to the gradient, whether or not `θ̂` is a minimum."""
        engine, objective = self.fitted.engine, self.fitted.objective
        total = torch.zeros(objective.p, dtype=torch.float64, device=objective.device)
        for part in self.parts:
            gradients = ExampleGradients(engine, part.examples, objective.loss)
            total += part.weight * gradients.sum(part.index)
        total *= self.scale
        if self.scale != 1.0:
            total += (self.scale - 1.0) * self.fitted.mean_gradient.double()
        return total.to(objective.dtype)

    def curvature(self) -> LinearOperator:
        """`C'_λ` at `θ̂`: `s` times the curvature of the edited examples' losses, `∇²R`, and the damping."""
        return _EditedCurvature(self)

    def gradient_at(self, theta: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """`∇J'(θ) − ∇R(θ) + ∇²R (θ − θ̂) + ∇R(θ̂)`: the gradient of `J'`, its regulariser to second order."""
        objective = self.fitted.objective
        n = objective.n
        weights = torch.ones(n, dtype=torch.float64)
        for i, weight in self.edits.weights.items():
            weights[i] = weight
        weights[self._changed] = 0.0
        total = self._summed(objective.examples, weights, theta)
        if self._new is not None:
            total += self._summed(self._new, torch.tensor(self._new_weights(), dtype=torch.float64), theta)
        moved = (theta - objective.parameters.flat())[:, None]
        regulariser = objective.regulariser
        rest = regulariser.gradient() + regulariser.hessian().matmat(moved)[:, 0]
        return (self.scale / n * total + rest.double()).to(objective.dtype)

    def _summed(
        self, examples: Examples, weights: Float[Tensor, " b"], theta: Float[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        objective = self.fitted.objective
        leaf = theta.detach().clone().requires_grad_()

        def gradient(where: slice, batch: Any) -> Tensor:
            part = weights[where].to(objective.device, objective.dtype)
            if not bool(part.any()):
                return torch.zeros_like(leaf, dtype=torch.float64)
            with torch.enable_grad():
                losses = objective.losses(objective.parameters.unflatten(leaf), batch)
                (made,) = torch.autograd.grad((part * losses).sum(), leaf)
            return made.double()

        batches = examples.batches(self.fitted.engine.batch_size)
        return sum_over_batches(gradient(where, batch) for where, batch in batches)


class _EditedCurvature(LinearOperator):
    """`C'_λ = C_λ + (s − 1) C_data + s Σ_j Δw_j C_j`."""

    def __init__(self, edited: EditedObjective):
        fitted = edited.fitted
        data = fitted.curvature.data
        whole = fitted.damping.add_to(fitted.curvature.operator)
        # What is left is again a sum of examples' curvatures with weights ≥ 0: semi-definite if each is.
        bound = whole.lower_bound if data.lower_bound >= 0 else -float("inf")
        super().__init__(whole.size, whole.dtype, whole.device, bound)
        self._whole, self._data, self._scale = whole, data, edited.scale
        self._change = CurvatureOfExamples(data, edited.parts)

    def matmat(self, vectors: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        total = self._whole.matmat(vectors) + self._scale * self._change.matmat(vectors)
        return total if self._scale == 1.0 else total + (self._scale - 1.0) * self._data.matmat(vectors)


def _part(examples: Examples, index: list[int], weight: float) -> WeightedExamples:
    numbers: Int[Tensor, " b"] = torch.tensor(index, dtype=torch.long)
    return WeightedExamples(examples, numbers, weight)
