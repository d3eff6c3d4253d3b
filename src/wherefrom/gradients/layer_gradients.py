"""Per-example gradients of a whole model as factors, layer by layer, proved right on a few examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.autograd import vmap_failure
from wherefrom.gradients.capture import Capture
from wherefrom.gradients.dense_fallback import DenseFallback
from wherefrom.gradients.engine import GradientEngine
from wherefrom.gradients.proof import PROBES, Proof
from wherefrom.gradients.sites import demoted, find_sites
from wherefrom.layers import Block, Layouts, OuterProducts, Tape
from wherefrom.memory import fitting
from wherefrom.task import Examples

# Explicit gradients of a module without a rule are taken up to this many parameters.
DENSE_LIMIT = 100_000
_WORK_SHARE = 0.25
_WORK_CEILING = 96 * 2**20
# With several gradients an example, more examples gain little, and memory new to the process costs time.
_ROOTS_CEILING = 64 * 2**20
_MOST_EXAMPLES = 4096


@dataclass(frozen=True)
class Coverage:
    """How one block of parameters is attributed.

    Attributes:
        block: its name.
        rule: the layer rule, or `"dense"`.
        parameters: names.
        size: number of parameters.
        shape: `(g, o, i)` of its matrices.
        reason: why not by a rule, or what is special; empty otherwise.
    """

    block: str
    rule: str
    parameters: tuple[str, ...]
    size: int
    shape: tuple[int, int, int]
    reason: str


class LayerGradients:
    """Factored gradients of an objective.

    Every block is compared with autograd's per-example gradients on a few examples before it is used. A
    layer whose rule does not reproduce them (its weight is used outside its own call, say) is attributed by
    explicit gradients, with the reason in `coverage`.

    Args:
        engine: of the objective.
        strict: refuse modules that have no rule and too many parameters for explicit gradients; otherwise
            these are taken all the same, however large.

    Raises:
        UnsupportedError: such a module, or one that hooks cannot see into.
    """

    def __init__(self, engine: GradientEngine, *, strict: bool = True):
        self.engine = engine
        self.objective = engine.objective
        self.layouts = Layouts()
        self.sites = find_sites(self.objective.model, self.objective.parameters)
        self._prove()
        if strict:
            self._refuse_large()
        names = [name for site in self.sites if site.rule is None for name in site.parameters]
        self._fallback = (
            DenseFallback(self.objective, names, vmap=vmap_failure(self.objective) is None) if names else None
        )
        self._measure()

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in the order of `Capture.gradients`; together they hold every studied parameter."""
        return [block for site in self.sites for block in site.blocks]

    def coverage(self) -> list[Coverage]:
        """One row per block."""
        return [
            Coverage(block.name, block.rule, block.parameters, block.size, block.shape, site.reason)
            for site in self.sites
            for block in site.blocks
        ]

    def capture(self, examples: Examples, where: slice | Tensor) -> Capture:
        """The forward pass over these examples."""
        count = where.stop - where.start if isinstance(where, slice) else len(where)
        tape = Tape(count, self.layouts)
        return Capture(self.objective, self.sites, self._fallback, examples.batch(where), tape)

    def captures(
        self, examples: Examples, *, cotangents: int = 1, numbers_each: int = 0
    ) -> Iterator[tuple[slice, Capture]]:
        """Captures that cover a set once, in consecutive batches that fit the working memory.

        Args:
            examples: the set.
            cotangents: gradients that will be taken per example.
            numbers_each: further numbers per example that the caller will hold.
        """
        size = self.batch_size(cotangents, numbers_each)
        for start in range(0, len(examples), size):
            where = slice(start, min(start + size, len(examples)))
            yield where, self.capture(examples, where)

    def batch_size(self, cotangents: int = 1, numbers_each: int = 0) -> int:
        """Examples per capture."""
        ceiling = _WORK_CEILING if cotangents == 1 else _ROOTS_CEILING
        work = min(self.objective.memory * _WORK_SHARE, ceiling)
        # On a CPU one root after the other is pulled back, elsewhere all together.
        together = 2 * cotangents if self.objective.device.type != "cpu" else 1 + cotangents
        # The graph from the studied layers to the outputs is held too, and what comes back through it.
        graph = max(self._input_numbers, self.engine.bytes_each // self.objective.dtype.itemsize)
        numbers = graph + (1 + together) * self._output_numbers + cotangents * self._outputs_each
        numbers += numbers_each
        return fitting(work, numbers * self.objective.dtype.itemsize, _MOST_EXAMPLES)

    def roots_together(self) -> int:
        """Cotangents of one example whose gradients fit the working memory."""
        work = min(self.objective.memory * _WORK_SHARE, _ROOTS_CEILING)
        each = (2 * self._output_numbers + self._outputs_each) * self.objective.dtype.itemsize
        return fitting(work, each)

    def _prove(self) -> None:
        """Compare every block with autograd on a few examples, and repair what can be repaired."""
        proof = Proof(self.engine, self.layouts)
        proof.mark_sequence_first(self.sites)
        repaired: set[str] = set()
        # A repair can leave others without the calls they were proved on: again, until nothing changes.
        while doubtful := proof.mismatches(self.sites):
            for position, site in enumerate(self.sites):
                if site.name not in doubtful:
                    continue
                if site.name in repaired:
                    self.sites[position] = demoted(site, self.objective.parameters, doubtful[site.name])
                else:
                    self.sites[position] = proof.repaired(self.sites, position, doubtful[site.name])
                    repaired.add(site.name)
        for doubts in (proof.unordered, proof.elsewhere):
            for name, reason in doubts(self.sites).items():
                position = [site.name for site in self.sites].index(name)
                self.sites[position] = demoted(self.sites[position], self.objective.parameters, reason)

    def _refuse_large(self) -> None:
        for site in self.sites:
            for block in site.blocks:
                if not site.explicit or site.unused or block.size <= DENSE_LIMIT:
                    continue
                raise UnsupportedError(
                    f"module {block.name!r} ({', '.join(block.parameters[:4])}; {block.size:,} parameters) "
                    f"cannot be attributed by a layer rule: {site.reason}. Explicit gradients are taken up "
                    f"to {DENSE_LIMIT:,} parameters. Leave it out with parameters=, add a rule with "
                    "wherefrom.layers.register_rule, or pass strict=False to take them all the same."
                )

    def _measure(self) -> None:
        """Numbers per example that a capture holds."""
        index = torch.tensor(self.objective.examples.spread(PROBES), device=self.objective.device)
        capture = self.capture(self.objective.examples, index)
        forms = capture.gradients(torch.ones_like(capture.outputs)[None])
        self._outputs_each = max(1, capture.outputs.numel() // len(index))
        calls = capture.calls()
        held = sum(call.inputs.numel() for call in calls)
        held += sum(form.activations.numel() for form in forms if isinstance(form, OuterProducts))
        made = sum(call.shape.numel() for call in calls)
        made += sum(block.size for block in self.blocks if block.kind == "rows") * len(index)
        self._input_numbers = max(1, held // len(index))
        self._output_numbers = max(1, made // len(index))
