"""One forward pass that keeps what the per-example gradients of every layer are made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.dense_fallback import DenseFallback, unfused_layers
from wherefrom.gradients.linearisation import Evaluated
from wherefrom.gradients.sites import Site
from wherefrom.layers import Block, Call, GradientForm, OuterProducts, Tape, TokenOuterProducts, rows_form
from wherefrom.task import Objective, batched_backward, differentiable_attention

# Several roots together save calls where these are most of the time; otherwise one after the other is faster
# on a CPU and takes less memory.
_FEW_NUMBERS = 50_000


class Capture(Evaluated):
    """Inputs of the studied layers on a batch, and a graph in which only their outputs are differentiated:
    gradients of parameters are never asked of autograd.

    Args:
        objective: model and parameters.
        sites: from `find_sites`.
        fallback: explicit gradients of the sites without a rule.
        batch: of examples.
        tape: empty, with the number of examples and the layouts of special blocks.
        check: whether to check that calls keep the examples apart and in order: `"flat"` where examples and
            positions share a dimension, `"all"` or `"none"` of the calls. It takes one more cotangent.
    """

    def __init__(
        self,
        objective: Objective,
        sites: Sequence[Site],
        fallback: DenseFallback | None,
        batch: Any,
        tape: Tape,
        check: Literal["flat", "all", "none"] = "flat",
    ):
        self._sites = sites
        self._fallback = fallback
        self._batch = batch
        self.tape = tape
        self._check = check
        values = objective.parameters.values
        # What was found to be unused is watched: should a batch depend on it, that is seen in the graph.
        self._unused = {
            name: values[name].detach().requires_grad_()
            for site in sites
            if site.unused
            for name in site.parameters
        }
        with ExitStack() as stack:
            for site in sites:
                if site.rule is not None and not site.unused:
                    for module in site.modules:
                        stack.callback(site.rule.watch(module, list(site.blocks), tape).remove)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(differentiable_attention())
            stack.enter_context(unfused_layers())
            self._graph_outputs = objective.outputs({**values, **self._unused}, batch)
        self.outputs = self._graph_outputs.detach()
        self.targets = objective.targets(batch)

    def calls(self) -> list[Call]:
        """All recorded calls, in the order of the sites."""
        return [
            call
            for site in self._sites
            for block in site.blocks
            for call in self.tape.calls.get(block.name, [])
        ]

    def gradients(self, cotangents: Tensor) -> list[GradientForm]:
        """`∇_θ ⟨u_k, f⟩` per example and block, for cotangents of shape `(k, *outputs.shape)`; in the order
        of the blocks.

        Raises:
            UnsupportedError: the outputs of this batch depend on parameters that others did not depend on.
        """
        calls = self.pull(cotangents)
        explicit = {} if self._fallback is None else self._fallback.rows(self._batch, cotangents)
        forms: list[GradientForm] = []
        for site in self._sites:
            for block in site.blocks:
                own = self.tape.calls.get(block.name)
                if site.rule is None:
                    rows = torch.cat([explicit[name] for name in block.parameters], dim=2)
                    forms.append(rows_form(rows))
                elif own is None:  # not called for this batch (an expert nothing was routed to, say)
                    forms.append(_zeros(block, cotangents))
                else:
                    forms.append(site.rule.form(site.modules[0], block, own, self.tape.batch))
        for call in calls:
            call.gradient = None
        return forms

    def pull(self, cotangents: Tensor) -> list[Call]:
        """All calls, with the gradients of their outputs filled in.

        Raises:
            UnsupportedError: as `gradients`.
        """
        calls = self.calls()
        doubtful = [call for call in calls if self._doubtful(call)]
        if not doubtful:
            for call, gradient in zip(calls, self._pulled(calls, cotangents)):
                call.receive(gradient)
            return calls
        # Every example's gradient times a number of its own must be its row times that number.
        k, b = cotangents.shape[:2]
        generator = torch.Generator().manual_seed(0)
        scales = torch.randn(b, generator=generator, dtype=torch.float64).to(cotangents)
        scaled = cotangents[:1] * scales.reshape(b, *[1] * (cotangents.ndim - 2))
        for call, gradient in zip(calls, self._pulled(calls, torch.cat([cotangents, scaled]))):
            call.receive(gradient[k:])
            found = call.gradient
            call.receive(gradient[:k])
            if self._doubtful(call):
                self._check_order(call, found, scales)
        return calls

    def _doubtful(self, call: Call) -> bool:
        if self._check == "flat":
            return call.shape[1 if call.second else 0] != self.tape.batch
        return self._check == "all"

    def _check_order(self, call: Call, scaled: Tensor | None, scales: Tensor) -> None:
        assert call.gradient is not None and scaled is not None
        b, rows = self.tape.batch, call.gradient.shape[1]
        if rows % b == 0:
            expected = call.gradient[:1].unflatten(1, (b, -1)) * scales.reshape(
                1, b, *[1] * (call.gradient.ndim - 1)
            )
            off = (scaled.unflatten(1, (b, -1)) - expected).norm()
            if bool(off <= torch.finfo(scales.dtype).eps ** 0.5 * (scaled.norm() + expected.norm())):
                return
        name = next(name for name, calls in self.tape.calls.items() if call in calls)
        raise UnsupportedError(
            f"module {name!r} is called on {rows} rows for a batch of {b} examples, and not example by "
            "example in order (it sees some of the examples or positions only, say), so its gradients cannot "
            "be told apart. Leave it out with parameters=, or use solver=CG()."
        )

    def _pulled(self, calls: list[Call], cotangents: Tensor) -> list[Tensor]:
        """Gradients `(k, *shape)` of the outputs of these calls."""
        k = cotangents.shape[0]
        edges = [*(call.edge for call in calls), *self._unused.values()]
        if not edges or not self._graph_outputs.requires_grad:
            return [cotangents.new_zeros(k, *call.shape) for call in calls]
        numbers = sum(call.shape.numel() for call in calls)
        if k > 1 and (cotangents.is_cuda or numbers < _FEW_NUMBERS):
            made = self._backward(edges, cotangents, batched=True)
            self._check_unused(made[len(calls) :])
            return [
                cotangents.new_zeros(k, *call.shape) if part is None else part
                for call, part in zip(calls, made)
            ]
        found: list[Tensor | None] = [None] * len(calls)
        for root in range(k):
            made = self._backward(edges, cotangents[root], batched=False)
            self._check_unused(made[len(calls) :])
            for place, part in enumerate(made[: len(calls)]):
                if part is None:  # for no root does the graph reach it
                    continue
                if k == 1:
                    found[place] = part[None]
                    continue
                held = found[place]
                if held is None:
                    held = found[place] = part.new_empty(k, *part.shape)
                held[root] = part
        return [
            cotangents.new_zeros(k, *call.shape) if part is None else part for call, part in zip(calls, found)
        ]

    def _backward(self, edges: list[Any], cotangents: Tensor, *, batched: bool) -> list[Tensor | None]:
        with differentiable_attention():
            if batched:
                return batched_backward(self._graph_outputs, edges, cotangents)
            made = torch.autograd.grad(
                self._graph_outputs, edges, cotangents, retain_graph=True, allow_unused=True
            )
        return list(made)

    def _check_unused(self, gradients: Sequence[Tensor | None]) -> None:
        for name, part in zip(self._unused, gradients):
            if part is not None and bool((part != 0).any()):
                raise UnsupportedError(
                    f"parameter {name!r} changes the outputs of this batch, but of none of the examples that "
                    "its layer rule was to be proved on. Put an example that uses it first or last in the "
                    "training set, or leave it out with parameters=."
                )


def _zeros(block: Block, cotangents: Tensor) -> GradientForm:
    """Gradients that vanish, which take no memory."""
    k, b = cotangents.shape[:2]
    g, o, i = block.shape
    if block.kind == "tokens":
        none = torch.full((b, 1), -1, device=cotangents.device)
        return TokenOuterProducts(none, cotangents.new_zeros(k, b, 1, o), i)
    zero = cotangents.new_zeros(())
    sequence = block.sequence
    return OuterProducts(zero.expand(b, 1, g, i), zero.expand(k, b, 1, g, o), sequence=sequence)
