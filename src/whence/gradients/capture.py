"""One forward pass that keeps what the per-example gradients of every layer are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from whence.gradients.linearisation import Evaluated
from whence.gradients.sites import Site
from whence.layers import Call, GradientForm, Tape, rows_form
from whence.task import Objective, differentiable_attention

# From a batch and cotangents to explicit per-example gradients, one part per parameter.
PullEach = Callable[[Any, Tensor], list[Tensor]]


class Capture(Evaluated):
    """Inputs of the studied layers on a batch, and a graph in which only their outputs are differentiated:
    gradients of parameters are never asked of autograd.

    Args:
        objective: model and parameters.
        sites: from `find_sites`.
        each: per-example pull-backs of the fallback sites, by path.
        batch: of examples.
        tape: empty, with the number of examples and the layouts of special blocks.
    """

    def __init__(
        self, objective: Objective, sites: Sequence[Site], each: dict[str, PullEach], batch: Any, tape: Tape
    ):
        self._sites = sites
        self._each = each
        self._batch = batch
        self.tape = tape
        with ExitStack() as stack:
            for site in sites:
                if site.rule is not None:
                    for module in site.modules:
                        handle = site.rule.watch(module, list(site.blocks), tape)
                        stack.callback(handle.remove)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(differentiable_attention())
            self._graph_outputs = objective.outputs(objective.parameters.values, batch)
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
        of the blocks."""
        calls = self.pull(cotangents)
        forms: list[GradientForm] = []
        for site in self._sites:
            if site.rule is None:
                parts = self._each[site.path](self._batch, cotangents)  # (b, k, p_j) each
                rows = torch.cat(parts, dim=2).transpose(0, 1)
                forms.append(rows_form(rows))
                continue
            for block in site.blocks:
                own = self.tape.calls[block.name]
                forms.append(site.rule.form(site.modules[0], block, own, self.tape.batch))
        for call in calls:
            call.gradient = None
        return forms

    def pull(self, cotangents: Tensor) -> list[Call]:
        """All calls, with the gradients of their outputs filled in."""
        calls = self.calls()
        if calls:
            for call, gradient in zip(calls, self._pulled(calls, cotangents)):
                call.receive(gradient)
        return calls

    def _pulled(self, calls: list[Call], cotangents: Tensor) -> list[Tensor]:
        k = cotangents.shape[0]
        if not self._graph_outputs.requires_grad:
            return [cotangents.new_zeros(k, *call.shape) for call in calls]
        edges = [call.edge for call in calls]
        with differentiable_attention():
            if k == 1:
                single = torch.autograd.grad(
                    self._graph_outputs, edges, cotangents[0], retain_graph=True, allow_unused=True
                )
                made = [None if part is None else part[None] for part in single]
            else:
                made = list(
                    torch.autograd.grad(
                        self._graph_outputs,
                        edges,
                        cotangents,
                        is_grads_batched=True,
                        retain_graph=True,
                        allow_unused=True,
                    )
                )
        return [
            cotangents.new_zeros(k, *call.shape) if part is None else part for call, part in zip(calls, made)
        ]
