"""Derivatives by the input of derivatives by the parameters, and whether they are right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import DerivativeProbe, describe_suspects, gradient_at
from wherefrom.influence.continuous_input import ContinuousInput, only_call, perturbable_output
from wherefrom.linalg.finite_differences import discrepancy
from wherefrom.memory import is_allocation_failure
from wherefrom.task import Objective, differentiable_attention

# Random vectors in place of the solutions.
_VECTORS = 3


def check_mixed_derivative(probe: DerivativeProbe, where: ContinuousInput | nn.Module) -> None:
    """Refuse a model whose `∇_x ∇_θ ℓ` is missing or not what finite differences of `∇_θ ℓ` give.

    Args:
        probe: a few training examples in float64.
        where: what is perturbed, as for `input_gradients`.

    Raises:
        UnsupportedError: with the likely cause.
    """
    objective, batch = probe.objective, probe.batch
    parameters = objective.parameters
    columns = [probe.random(_VECTORS, value) for value in parameters.values.values()]
    vectors = parameters.flatten_rows(columns)
    try:
        made = input_gradients(objective, batch, where, vectors.T)
    except (RuntimeError, NotImplementedError) as error:
        if is_allocation_failure(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedError(
            "the influence with respect to the input needs the second derivative of every operation between "
            f"it and the loss, and one has none: {reason}. Replace that operation; scores need first "
            "derivatives only."
        ) from error
    along = probe.random(1, made[0])[0]
    if isinstance(where, ContinuousInput):
        along = along * (float(where.read(batch).square().mean().sqrt()) or 1.0)
    claimed = -(made * along).flatten(1).sum(1)

    def products(step: float) -> Tensor:
        if isinstance(where, ContinuousInput):
            moved = where.write(batch, where.read(batch) + step * along)
            parts = gradient_at(objective, parameters.values, moved)
        else:
            with _moved_output(where, step * along):
                parts = gradient_at(objective, parameters.values, batch)
        pairs = [(column, part) for column, part in zip(columns, parts) if part is not None]
        total = vectors.new_zeros(_VECTORS)
        for column, part in pairs:
            total = total + (column * part).reshape(_VECTORS, -1).sum(1)
        return total

    found = discrepancy(products, claimed, steps=probe.steps)
    if found is None:
        return
    suspects = describe_suspects(probe)
    if not probe.exact and not suspects:  # in float32 the kinks of a ReLU look like curvature
        return
    raise UnsupportedError(
        "the derivative by the input of the gradient in the parameters is wrong in torch: off by "
        f"{found.relative:.2g} of its size (finite differences of the gradient). {suspects}Scores need first "
        "derivatives only, the influence with respect to the input second ones."
    )


@contextmanager
def _moved_output(module: nn.Module, change: Tensor) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _, args, made: made + change)
    try:
        yield
    finally:
        handle.remove()


def input_gradients(
    objective: Objective,
    batch: Any,
    where: ContinuousInput | nn.Module,
    solutions: Float[Tensor, "p k"],
) -> Float[Tensor, "k b *x"]:
    """`−∇_x(s_jᵀ ∇_θ ℓ_i)` for the `b` examples of a batch and `k` vectors `s_j`, by double backward.

    Args:
        objective: gives the loss and `θ̂`.
        batch: training examples, at their values or changed.
        where: the tensor of the batch, or the module whose output, is differentiated by.
        solutions: `s_j` as columns.
    """
    parameters = objective.parameters
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.values.items()}
    with torch.enable_grad(), differentiable_attention():
        if isinstance(where, ContinuousInput):
            x = where.read(batch).detach().clone().requires_grad_()
            losses = objective.losses(leaves, where.write(batch, x))
        else:
            with perturbable_output(where) as calls:
                losses = objective.losses(leaves, batch)
            x = only_call(calls)[1]
            if x.shape[0] != losses.shape[0]:
                raise InputError(
                    f"the embedding module's output has shape {tuple(x.shape)} for {losses.shape[0]} "
                    "examples; expected the examples as the first dimension"
                )
        gradients = torch.autograd.grad(
            losses.sum(), list(leaves.values()), create_graph=True, materialize_grads=True
        )
        rows = []
        for column in solutions.T:
            pairs = [
                (gradient, part)
                for gradient, part in zip(gradients, parameters.unflatten(column).values())
                if gradient.requires_grad
            ]
            if not pairs:  # no gradient depends on the input
                rows.append(torch.zeros_like(x))
                continue
            (row,) = torch.autograd.grad(
                [gradient for gradient, _ in pairs],
                x,
                [part for _, part in pairs],
                retain_graph=True,
                materialize_grads=True,
            )
            rows.append(-row)
    return torch.stack(rows).detach()
