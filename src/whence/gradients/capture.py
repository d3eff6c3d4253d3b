"""One forward pass that keeps what the per-example gradients of every layer are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from whence.errors import UnsupportedError
from whence.gradients.dense_fallback import DenseFallback
from whence.gradients.linearisation import Evaluated
from whence.gradients.sites import Site
from whence.layers import Block, Call, GradientForm, OuterProducts, Tape, TokenOuterProducts, rows_form
from whence.task import Objective, differentiable_attention


class Capture(Evaluated):
    """Inputs of the studied layers on a batch, and a graph in which only their outputs are differentiated:
    gradients of parameters are never asked of autograd.

    Args:
        objective: model and parameters.
        sites: from `find_sites`.
        fallback: explicit gradients of the sites without a rule.
        batch: of examples.
        tape: empty, with the number of examples and the layouts of special blocks.
    """

    def __init__(
        self,
        objective: Objective,
        sites: Sequence[Site],
        fallback: DenseFallback | None,
        batch: Any,
        tape: Tape,
    ):
        self._sites = sites
        self._fallback = fallback
        self._batch = batch
        self.tape = tape
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
            stack.enter_context(_no_fast_path())
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
        """All calls, with the gradients of their outputs filled in."""
        calls = self.calls()
        for call, gradient in zip(calls, self._pulled(calls, cotangents)):
            call.receive(gradient)
        return calls

    def _pulled(self, calls: list[Call], cotangents: Tensor) -> list[Tensor]:
        k = cotangents.shape[0]
        edges = [*(call.edge for call in calls), *self._unused.values()]
        if not edges or not self._graph_outputs.requires_grad:
            return [cotangents.new_zeros(k, *call.shape) for call in calls]
        given, batched = (cotangents[0], False) if k == 1 else (cotangents, True)
        with differentiable_attention():
            made = torch.autograd.grad(
                self._graph_outputs,
                edges,
                given,
                is_grads_batched=batched,
                retain_graph=True,
                allow_unused=True,
            )
        for name, part in zip(self._unused, made[len(calls) :]):
            if part is not None and bool((part != 0).any()):
                raise UnsupportedError(
                    f"parameter {name!r} changes the outputs of this batch, but of none of the examples that "
                    "its layer rule was to be proved on. Put an example that uses it first or last in the "
                    "training set, or leave it out with parameters=."
                )
        return [
            cotangents.new_zeros(k, *call.shape) if part is None else part if batched else part[None]
            for call, part in zip(calls, made)
        ]


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


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Transformer layers call their submodules one by one, instead of a fused kernel for inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
