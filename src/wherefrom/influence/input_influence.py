"""Influence with respect to the input of a training example: what a small change of it does to a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.influence.continuous_input import (
    ContinuousInput,
    find_input,
    find_module,
)
from wherefrom.influence.fit import Fit
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.mixed_derivative import check_mixed_derivative, input_gradients
from wherefrom.influence.scores import check_indices
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar


@dataclass(frozen=True)
class InputInfluence:
    """`I_pert,m(z) = −∇mᵀ C_λ⁻¹ ∇_x ∇_θ ℓ(z, θ̂)` for some training examples (Koh & Liang 2017, §2.2).

    Changing the input of training example `z` by a small `δ` and training again changes the measurement by
    `I_pert,m(z) · δ / n`: a positive entry means that raising this part of the input raises `m`.

    Attributes:
        index: which training examples, `(b,)`.
        values: `(k, b, *x)`: one row per query, or a single one for the mean over the queries.
        n: size of the training set.
        measurement: its name.
        converged: whether the solver reached what it was asked for, for every row.
    """

    index: Int[Tensor, " b"]
    values: Float[Tensor, "k b *x"]
    n: int
    measurement: str
    converged: bool

    def predicted_change(self, change: Float[Tensor, " b *x"]) -> Float[Tensor, "k b"]:
        """`I_pert · δ / n`: predicted change of the measurements for a change `δ` of each input alone.

        Raises:
            InputError: `change` is not shaped like the inputs.
        """
        if change.shape != self.values.shape[1:]:
            raise InputError(
                f"change has shape {tuple(change.shape)}; expected {tuple(self.values.shape[1:])}, one "
                "change for each of the examples"
            )
        return (self.values * change.to(self.values)).flatten(2).sum(2) / self.n

    def norm(self, order: float | int = 2) -> Float[Tensor, "k b"]:
        """Norm of each example's row. `order=1` is `n` times what an l∞ budget of 1 can change to first
        order, `order=2` the same for an l2 budget."""
        return self.values.flatten(2).norm(p=order, dim=2)

    def top(self, k: int, *, query: int = 0, order: float | int = 2) -> list[int]:
        """The `k` training examples of largest norm, by index in the training set."""
        order_of = self.norm(order)[query].argsort(descending=True, stable=True)[:k]
        return self.index[order_of.to(self.index.device)].tolist()


def input_influence(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    examples: Sequence[int] | Tensor | None = None,
    mean: bool = True,
    input: int | str | None = None,
    embedding: nn.Module | str | None = None,
    batch_size: int = 64,
) -> InputInfluence:
    """`I_pert,m(z) = −∇_x(sᵀ ∇_θ ℓ(z, θ̂))` with `s = C_λ⁻¹ ∇m`, for many training examples.

    `x` reaches the loss through the whole model, also where only a head is studied. Cost: one solve per row,
    and for each batch one forward and two backward passes, the second once per row.

    Args:
        fitted: the fitted influence function.
        queries: examples, in any form the training data may have.
        measurement: what is measured on a query.
        examples: training indices; all by default.
        mean: one row for the mean of the measurement over the queries; otherwise one row per query.
        input: which tensor of a batch is perturbed, where there are several: its place or its key.
        embedding: a module of the model, or its name: influence with respect to its output, for tokens and
            other discrete inputs.
        batch_size: training examples per pass.

    Raises:
        InputError: no queries, an index outside the training set, inputs that are not continuous, both
            `input` and `embedding`, examples whose inputs have several shapes.
        UnsupportedError: an operation of the model has no second derivative, or a wrong one.
    """
    objective = fitted.objective
    batch_size = whole("batch_size", batch_size, 1)
    if input is not None and embedding is not None:
        raise InputError("both input= and embedding= were given; expected one of them")
    where: ContinuousInput | nn.Module = (
        find_input(objective, input) if embedding is None else find_module(objective, embedding)
    )
    index = torch.arange(objective.n) if examples is None else check_indices(examples, objective.n)
    if not len(index):
        raise InputError("examples is empty: expected at least one training index")
    check_mixed_derivative(fitted.engine.probe, where)
    measured = resolve_measurement(measurement, objective.loss)
    solutions, converged = solve_measurement(fitted, queries, measured, mean=mean)
    parts = []
    with (
        progress_bar("input influence", len(index), enabled=fitted.options.progress) as bar,
        memory_errors(
            "differentiating by the inputs", "Lower batch_size=, or ask for fewer queries at once."
        ),
    ):
        for chosen in index.split(batch_size):
            batch = objective.examples.batch(chosen)
            parts.append(input_gradients(objective, batch, where, solutions).cpu())
            bar.advance(len(chosen))
    shapes = {tuple(part.shape[2:]) for part in parts}
    if len(shapes) > 1:
        raise InputError(
            f"the examples' inputs have the shapes {sorted(shapes)}; expected one. Ask for examples of one "
            "length at a time (examples=)"
        )
    return InputInfluence(index, torch.cat(parts, dim=1), objective.n, measured.name, converged)


def solve_measurement(
    fitted: Fit, queries: Any, measured: Measurement, *, mean: bool
) -> tuple[Float[Tensor, "p k"], bool]:
    """`s = C_λ⁻¹ ∇m` for every query, or for the mean over all of them; and whether the solver converged."""
    gradients = fitted.measure_gradients(queries, measured)
    if mean:
        solution = fitted.apply(gradients.mean().to(fitted.objective.dtype)[:, None])
        return solution.x, bool(solution.converged.all())
    blocks = [block.solution for block in fitted.pairing.blocks(gradients, errors=False)]
    return torch.cat([block.x for block in blocks], dim=1), all(bool(b.converged.all()) for b in blocks)
