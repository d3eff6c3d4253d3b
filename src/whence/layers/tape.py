"""What a forward pass leaves behind: inputs of the studied layers, and where their outputs stand in the
graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from whence.layers.block import Block


@dataclass
class Call:
    """One call of a layer.

    Attributes:
        inputs: what entered, detached.
        edge: the output in the graph: a leaf, or a gradient edge.
        shape: of the output.
        gradient: with respect to the output, `(k, *shape)`, once it is pulled back.
    """

    inputs: Tensor
    edge: Any
    shape: torch.Size
    version: int
    gradient: Tensor | None = None

    @property
    def overwritten(self) -> bool:
        """Whether the model changed the input in place after the call."""
        return self.inputs._version != self.version


@dataclass
class Tape:
    """The calls of every block in one forward pass.

    Attributes:
        batch: number of examples.
        copied: names of blocks whose inputs are copied, since the model overwrites them.
        shared: names of blocks whose input is shared by all examples (positions of a sequence, say): the
            output is given one copy per example, so that gradients are per example.
    """

    batch: int
    copied: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    calls: dict[str, list[Call]] = field(default_factory=dict)

    def tap(self, block: Block, inputs: Tensor, output: Tensor) -> Tensor:
        """Record a call and return the output that the forward pass is to go on with."""
        inputs = inputs.detach()
        if block.name in self.copied:
            inputs = inputs.clone()
        if block.name in self.shared:
            inputs, output = (_per_example(value, self.batch) for value in (inputs, output))
        if output.requires_grad:
            # The edge, not the tensor: an operation in place after the layer would move the tensor.
            edge, handed = get_gradient_edge(output), output
        else:
            edge = output.detach().requires_grad_()
            handed = edge.clone()
        call = Call(inputs, edge, output.shape, inputs._version)
        self.calls.setdefault(block.name, []).append(call)
        return handed


def _per_example(value: Tensor, batch: int) -> Tensor:
    """One copy per example of a tensor without, or with a trivial, first dimension of examples."""
    whole = value if value.shape[:1] == (1,) else value[None]
    return whole.expand(batch, *whole.shape[1:])
