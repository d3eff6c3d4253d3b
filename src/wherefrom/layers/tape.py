"""What a forward pass leaves behind: inputs of the studied layers, and where their outputs stand in the
graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from wherefrom.layers.block import Block


@dataclass
class Layouts:
    """How the calls of some blocks differ from the plain case, found out on a few examples.

    Attributes:
        copied: names of blocks whose inputs or outputs the model overwrites: they are copied.
        shared: names of blocks whose input is shared by all examples (positions of a sequence, say): the
            output is given one copy per example, so that gradients are per example.
        second: names of blocks whose examples lie in the second dimension (sequence-first models).
    """

    copied: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    second: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Call:
    """One call of a layer.

    Attributes:
        inputs: what entered, detached, examples first.
        edge: the output in the graph: a leaf, or a gradient edge.
        shape: of the output.
        version: of the inputs when they entered.
        second: whether the examples lie in the second dimension of the output.
        held: whatever else the rule needs.
        gradient: with respect to the output, `(k, …)`, examples before the rest, once it is pulled back.
    """

    inputs: Tensor
    edge: Any
    shape: torch.Size
    version: int
    second: bool = False
    held: Any = None
    gradient: Tensor | None = None

    @property
    def overwritten(self) -> bool:
        """Whether the model changed the input in place after the call."""
        return self.inputs._version != self.version

    def receive(self, gradient: Tensor) -> None:
        """Keep the gradient `(k, *shape)`."""
        self.gradient = gradient.transpose(1, 2) if self.second else gradient


@dataclass
class Tape:
    """The calls of every block in one forward pass.

    Attributes:
        batch: number of examples.
        layouts: of special blocks.
        calls: in order, by the block's name.
    """

    batch: int
    layouts: Layouts = field(default_factory=Layouts)
    calls: dict[str, list[Call]] = field(default_factory=dict)

    def tap(self, block: Block, inputs: Tensor, output: Tensor, held: Any = None) -> Tensor:
        """Record a call and return the output that the forward pass is to go on with."""
        inputs = inputs.detach()
        copied, second = block.name in self.layouts.copied, block.name in self.layouts.second
        if copied:
            inputs = inputs.clone()
        if second:
            inputs = inputs.transpose(0, 1)
        if block.name in self.layouts.shared:
            inputs, output = (_per_example(value, self.batch) for value in (inputs, output))
        edge: Any
        if output.requires_grad:
            # The edge, not the tensor: an operation in place after the layer would move the tensor.
            edge, handed = get_gradient_edge(output), output.clone() if copied else output
        else:
            leaf = output.detach().requires_grad_()
            edge, handed = leaf, leaf.clone()
        call = Call(inputs, edge, output.shape, inputs._version, second, held)
        self.calls.setdefault(block.name, []).append(call)
        return handed


def _per_example(value: Tensor, batch: int) -> Tensor:
    """One copy per example of a tensor without, or with a trivial, first dimension of examples."""
    whole = value if value.shape[:1] == (1,) else value[None]
    return whole.expand(batch, *whole.shape[1:])
