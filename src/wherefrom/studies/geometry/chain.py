"""The layers of a model that every path from the input to the output runs through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from wherefrom.errors import UnsupportedError
from wherefrom.studies.geometry.evaluation import InputGraph
from wherefrom.studies.geometry.graph import leaves, sums_ending
from wherefrom.task import Examples, Objective

LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Kind = Literal["dense", "convolution", "residual"]


@dataclass
class ChainCall:
    """What one layer read and made in a forward pass.

    Attributes:
        inputs: the values of `h_t`.
        entry: `h_t` in the graph as it was then (an activation that works in place moves a tensor on).
        end: `z` in the graph, likewise.
        shape: of `z`.
        parameters: the leaves of weight and bias, by their names in the module.
    """

    inputs: Tensor
    entry: Tensor | GradientEdge | None
    end: GradientEdge | None
    shape: tuple[int, ...]
    parameters: dict[str, Tensor]


@dataclass
class ChainLayer:
    """A layer that all paths from the input to the output run through.

    Attributes:
        name, module: dense or convolution.
        kind: `"dense"`, `"convolution"`, or `"residual"` for the last layer of a residual block.
        inputs: the values of `h_t`, shape `(b, …)`.
        entry: `h_t` in the graph.
        end: in the graph, the sum that ends the residual block; the layer's own output `z` otherwise.
        shape: of `z`, and of the sum.
        values: weight and bias as they were used.
        studied: which of `"weight"` and `"bias"` are studied parameters.
    """

    name: str
    module: nn.Module
    kind: Kind
    inputs: Tensor
    entry: Tensor | GradientEdge
    end: GradientEdge
    shape: tuple[int, ...]
    values: dict[str, Tensor]
    studied: frozenset[str]


class ChainReader:
    """Reads batches of an objective layer by layer.

    Args:
        objective: model and parameters.
        strict: refuse a model with a studied dense or convolutional layer that is no layer of a chain;
            otherwise such layers are left out.

    Raises:
        UnsupportedError: no studied layer is dense or convolutional; the layers of two modules share a
            weight (with `strict`).
    """

    def __init__(self, objective: Objective, *, strict: bool):
        self.objective = objective
        self.strict = strict
        self.left_out: dict[str, str] = {}
        self._modules: dict[str, nn.Module] = {}
        holders: dict[int, list[str]] = {}
        for name, module in objective.model.named_modules():
            for own, value in module._parameters.items():
                if value is not None:
                    holders.setdefault(id(value), []).append(f"{name}.{own}" if name else own)
            if type(module) in LINEAR + CONVOLUTIONS:
                self._modules[name or "model"] = module
        studied = set(objective.parameters.values)
        for name, module in list(self._modules.items()):
            places = [holders[id(value)] for value in module._parameters.values() if value is not None]
            shared = next((place for place in places if len(place) > 1), None)
            if not any(studied & set(place) for place in places):
                del self._modules[name]
            elif shared is not None:
                self._leave_out(name, f"its parameter is shared: {' and '.join(shared)} are one tensor")
                del self._modules[name]
        if not self._modules and not self.left_out:
            raise UnsupportedError(
                "no studied parameter belongs to an nn.Linear, nn.Conv1d, nn.Conv2d or nn.Conv3d; the bound "
                "has a term for each of these and none without. gradient_norms needs no layers."
            )

    def read(self, examples: Examples, where: slice) -> tuple[InputGraph, list[ChainLayer]]:
        """The graph of these examples and the layers of its chain, in the order of their calls.

        Raises:
            UnsupportedError: with `strict`, a studied layer that is called more than once, whose weight is
                used outside its call, or that a skip connection goes around; in any case, a model without a
                layer of the chain.
        """
        calls: dict[str, list[ChainCall]] = {}
        hooks = [
            module.register_forward_hook(partial(_record, calls, name), with_kwargs=True)
            for name, module in self._modules.items()
        ]
        try:
            graph = InputGraph(self.objective, examples.batch(where))
        finally:
            for hook in hooks:
                hook.remove()
        found = []
        for name, made in calls.items():
            layer = self._layer(name, made, graph)
            if isinstance(layer, str):
                self._leave_out(name, layer)
            else:
                found.append(layer)
        for name in self._modules.keys() - calls.keys():
            self._check_uncalled(name, graph)
        if not found:
            listed = "; ".join(f"{name!r}: {reason}" for name, reason in self.left_out.items())
            raise UnsupportedError(
                f"all paths from the input to the output run through none of the studied layers ({listed}). "
                "The bound says nothing about this model; gradient_norms and geometric_complexity do."
            )
        return graph, found

    def _layer(self, name: str, made: list[ChainCall], graph: InputGraph) -> ChainLayer | str:
        """The layer of a module that was called, or why it is none."""
        if len(made) != 1:
            return f"it is called {len(made)} times in a forward pass, so its weight is shared"
        call, module, end = made[0], self._modules[name], graph.outputs.grad_fn
        if call.shape[0] != graph.count or call.inputs.shape[0] != graph.count:
            return (
                f"it reads {call.inputs.shape[0]} rows for {graph.count} examples, not one row (or map) each"
            )
        if call.entry is None or call.end is None:
            return "its input does not depend differentiably on the model's input"
        studied = {id(leaf) for leaf in graph.parameters.values()}
        own = {local: leaf for local, leaf in call.parameters.items() if id(leaf) in studied}
        entry = call.entry.grad_fn if isinstance(call.entry, Tensor) else call.entry.node
        beyond = leaves(end, cut=call.end.node)
        if {id(leaf) for leaf in own.values()} & (beyond | leaves(entry)):
            return "its weight or bias is also used outside its own call"
        kind: Kind = "convolution" if type(module) in CONVOLUTIONS else "dense"
        cut = call.end
        if id(graph.inputs) in beyond:
            around = (
                node
                for node in sums_ending(end, call.end.node, call.shape)
                if id(graph.inputs) not in leaves(end, cut=node)
            )
            node = next(around, None)
            if node is None:
                return "a path from the input to the output goes around it (a skip connection or a branch)"
            kind, cut = "residual", GradientEdge(node, 0)
        return ChainLayer(
            name, module, kind, call.inputs, call.entry, cut, call.shape, call.parameters, frozenset(own)
        )

    def _check_uncalled(self, name: str, graph: InputGraph) -> None:
        prefix = "" if name == "model" else f"{name}."
        reached = leaves(graph.outputs.grad_fn)
        own = [graph.parameters.get(f"{prefix}{local}") for local in self._modules[name]._parameters]
        if any(leaf is not None and id(leaf) in reached for leaf in own):
            self._leave_out(name, "its weight is used without calling it")

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        if self.strict:
            raise UnsupportedError(
                f"module {name!r} is no layer of a chain: {reason}. The inequality rests on one path through "
                "every layer and no shared weights. Pass layers='cut' for the bound by those layers alone "
                "that all paths run through, or leave the module out with parameters=."
            )


def _record(
    calls: dict[str, list[ChainCall]], name: str, module: nn.Module, args: Any, kwargs: Any, output: Tensor
) -> None:
    (inputs,) = args or kwargs.values()
    entry = None
    if inputs.requires_grad:
        entry = inputs if inputs.is_leaf else get_gradient_edge(inputs)
    end = get_gradient_edge(output) if output.requires_grad else None
    own: dict[str, Tensor] = {
        local: value for local, value in module._parameters.items() if value is not None
    }
    calls.setdefault(name, []).append(ChainCall(inputs.detach(), entry, end, tuple(output.shape), own))
