"""One forward pass with a graph from the inputs of a batch to its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import Evaluated
from wherefrom.influence import Attributor, Measurement
from wherefrom.studies.geometry.graph import leaves
from wherefrom.task import (
    Examples,
    Objective,
    check_batch_independence,
    check_model,
    differentiable_attention,
)


class InputGraph:
    """The model on one batch, differentiable in its one floating-point input and in the parameters.

    Attributes:
        count: examples `b`.
        inputs: the input, a leaf `(b, …)`.
        parameters: the studied parameters by name, leaves.
        outputs: `f`, shape `(b, …)`, with its graph.
        targets: of the batch, constants.

    Raises:
        UnsupportedError: the outputs depend differentiably on no floating-point tensor of the batch, or on
            several.
    """

    def __init__(self, objective: Objective, batch: Any):
        listed, tree = tree_flatten(batch)
        listed = [_watched(leaf) for leaf in listed]
        self.targets = objective.targets(batch)
        self.parameters = {
            name: value.detach().clone().requires_grad_()
            for name, value in objective.parameters.values.items()
        }
        with graphs():
            self.outputs = objective.outputs(self.parameters, tree_unflatten(listed, tree))
        self.count = self.outputs.shape[0]
        reached = leaves(self.outputs.grad_fn)
        found = [leaf for leaf in listed if isinstance(leaf, Tensor) and id(leaf) in reached]
        if len(found) != 1:
            kinds = sorted({str(leaf.dtype).removeprefix("torch.") for leaf in listed if _is_tensor(leaf)})
            raise UnsupportedError(
                f"the outputs depend differentiably on {len(found)} floating-point tensors of the batch (its "
                f"tensors are {', '.join(kinds)}); expected one. Gradients in the input exist for one "
                "floating-point input: for tokens start from their embeddings; put several inputs into one "
                "tensor and take it apart in forward=; remove torch.no_grad() and detach() from the model."
            )
        self.inputs: Tensor = found[0]

    def gradients(self, scalar: Measurement) -> Float[Tensor, "b d"]:
        """`∇_x f` per example, flattened."""
        with graphs():
            values = scalar.function(self.outputs, self.targets)
            if not isinstance(values, Tensor) or values.shape != (self.count,):
                found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(
                    f"scalar {scalar.name!r} returned {found} for {self.count} examples; expected one number "
                    f"per example, shape ({self.count},). Do not average over the batch."
                )
            if not values.requires_grad:
                raise InputError(
                    f"scalar {scalar.name!r} does not depend on the outputs differentiably (an argmax, a "
                    "comparison?); its gradient is asked for"
                )
            # Through the slopes in the outputs that gradients in the parameters go through too: autograd
            # would lose those of a confident prediction, and the two sides would be of two functions.
            at = Evaluated()
            at.outputs, at.targets = self.outputs.detach(), self.targets
            (made,) = torch.autograd.grad(
                self.outputs,
                self.inputs,
                at.output_gradient(scalar.function),
                retain_graph=True,
                materialize_grads=True,
            )
        return made.reshape(self.count, -1)


@contextmanager
def graphs() -> Iterator[None]:
    """Gradients on, with kernels that have second derivatives."""
    with torch.enable_grad(), differentiable_attention():
        yield


def checked(of: Objective | Attributor, examples: Any) -> tuple[Objective, Examples]:
    """The objective (of an attributor), whose model must treat examples apart, and the examples as it reads
    them."""
    objective = of.objective if isinstance(of, Attributor) else of
    check_model(objective.model)
    check_batch_independence(objective)
    return objective, as_examples(objective, examples)


def as_examples(objective: Objective, examples: Any) -> Examples:
    """Examples as given, read under the objective's rules; the training set for `None`."""
    if examples is None:
        return objective.examples
    return examples if isinstance(examples, Examples) else objective.read(examples, role="examples")


def norms(rows: Tensor) -> Float[Tensor, " b"]:
    """Euclidean norms of the rows, float64 on the CPU."""
    return rows.detach().double().flatten(1).norm(dim=1).cpu()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _watched(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf
