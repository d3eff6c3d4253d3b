"""Per-example gradients of a whole model as factors, layer by layer, proved right on a few examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.errors import UnsupportedError
from whence.gradients.autograd import looped_vjp_each, vmap_failure, vmapped_vjp_each
from whence.gradients.capture import Capture, PullEach
from whence.gradients.engine import GradientEngine
from whence.gradients.sites import FALLBACK, Site, demoted, find_sites
from whence.layers import Block, Layouts, OuterProducts, Tape
from whence.task import Examples

# Explicit gradients of a module without a rule are taken up to this many parameters.
DENSE_LIMIT = 100_000
_PROBES = 3
_WORK_SHARE = 0.25
_WORK_CEILING = 256 * 2**20
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
        self._each: dict[str, PullEach] = {}
        self._vmap = vmap_failure(self.objective) is None
        self.sites = find_sites(self.objective.model, self.objective.parameters)
        for site in self.sites:
            self._prepare_fallback(site, strict)
        self._prove(strict)
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
        return Capture(self.objective, self.sites, self._each, examples.batch(where), tape)

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
        work = min(self.objective.memory * _WORK_SHARE, _WORK_CEILING)
        numbers = self._input_numbers + (1 + 2 * cotangents) * self._output_numbers + numbers_each
        return int(max(1, min(_MOST_EXAMPLES, work // (numbers * self.objective.dtype.itemsize))))

    def _prepare_fallback(self, site: Site, strict: bool) -> None:
        if site.rule is not None:
            return
        (block,) = site.blocks
        if strict and block.size > DENSE_LIMIT:
            raise UnsupportedError(
                f"module {block.name!r} ({', '.join(block.parameters[:4])}; {block.size:,} parameters) "
                f"cannot be attributed by a layer rule: {site.reason}. Explicit gradients are taken up to "
                f"{DENSE_LIMIT:,} parameters. Leave it out with parameters=, add a rule, or pass "
                "strict=False to take them all the same."
            )
        make = vmapped_vjp_each if self._vmap else looped_vjp_each
        self._each[site.path] = make(self.objective, block.parameters)

    def _prove(self, strict: bool) -> None:
        """Compare every block with autograd on a few examples, and repair what can be repaired."""
        proof = _Proof(self)
        doubtful = proof.mismatches(self.sites)
        for position, site in enumerate(self.sites):
            if site.path not in doubtful:
                continue
            if self._found_layout(site, proof):
                continue
            self.sites[position] = demoted(site, self.objective.parameters, doubtful[site.path])
            self._prepare_fallback(self.sites[position], strict)

    def _found_layout(self, site: Site, proof: _Proof) -> bool:
        """Try whether its examples lie in the second dimension, whether one tensor serves all examples
        (positions of a sequence), or whether its output is overwritten."""
        names = {block.name for block in site.blocks}
        for special in (self.layouts.second, self.layouts.shared, self.layouts.copied):
            special |= names
            if not proof.mismatches([site]):
                return True
            special -= names
        return False

    def _measure(self) -> None:
        """Numbers per example that a capture holds."""
        index = torch.tensor(self.objective.examples.spread(_PROBES), device=self.objective.device)
        capture = self.capture(self.objective.examples, index)
        forms = capture.gradients(torch.ones_like(capture.outputs)[None])
        held = [form.activations.numel() for form in forms if isinstance(form, OuterProducts)]
        self._input_numbers = max(1, sum(held) // len(index))
        made = sum(call.shape.numel() for call in capture.calls())
        made += sum(block.size for block in self.blocks if block.rule == FALLBACK) * len(index)
        self._output_numbers = max(1, made // len(index))


class _Proof:
    """Autograd's own gradients of a few examples, to hold the layer rules against."""

    def __init__(self, layers: LayerGradients):
        self._layers = layers
        objective = layers.objective
        self._where = torch.tensor(objective.examples.spread(_PROBES), device=objective.device)
        at = layers.engine.linearise(objective.examples, self._where)
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(2, *at.outputs.shape, generator=generator, dtype=torch.float64)
        self._cotangents = random.to(at.outputs)
        self._truth = at.vjp_each(self._cotangents).transpose(0, 1)  # (k, b, p)
        self._tolerance = torch.finfo(objective.dtype).eps ** 0.5

    def mismatches(self, sites: list[Site]) -> dict[str, str]:
        """The sites, by path, whose rule does not give these gradients, and why."""
        try:
            capture = self._capture(sites)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            return {site.path: _first_line(error) for site in sites if site.rule is not None}
        found = {}
        for site in sites:
            reason = self._mismatch(site, capture)
            if reason is not None:
                found[site.path] = reason
        return found

    def _capture(self, sites: list[Site]) -> Capture:
        layers = self._layers
        ruled = [site for site in sites if site.rule is not None]
        for _ in range(2):
            tape = Tape(len(self._where), layers.layouts)
            batch = layers.objective.examples.batch(self._where)
            capture = Capture(layers.objective, ruled, {}, batch, tape)
            overwritten = {
                name for name, calls in tape.calls.items() if any(call.overwritten for call in calls)
            }
            if not overwritten:
                break
            layers.layouts.copied.update(overwritten)
        capture.pull(self._cotangents)
        return capture

    def _mismatch(self, site: Site, capture: Capture) -> str | None:
        if site.rule is None:
            return None
        for block in site.blocks:
            calls = capture.tape.calls.get(block.name)
            if calls is None:
                return "the module is never called: its parameters are used from outside"
            try:
                rows = site.rule.form(site.modules[0], block, calls, capture.tape.batch).rows()
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                return f"the rule {site.rule.name!r} does not fit its calls ({_first_line(error)})"
            truth = self._truth[:, :, block.index.reshape(-1)]
            if not bool((rows - truth).norm() <= self._tolerance * (rows.norm() + truth.norm())):
                return f"the rule {site.rule.name!r} gives other gradients than autograd"
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
