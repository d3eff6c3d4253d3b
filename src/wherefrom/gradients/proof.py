"""Layer rules held against autograd on a few examples of the user's own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.capture import Capture
from wherefrom.gradients.engine import GradientEngine
from wherefrom.gradients.sites import Site, demoted
from wherefrom.layers import Layouts, Tape
from wherefrom.memory import is_allocation_failure

PROBES = 3
# Examples that are asked, so many at a time, what three alone may not tell.
_MANY = 64
_PART = 8


class Proof:
    """Autograd's own gradients of a few examples.

    Args:
        engine: that takes them.
        layouts: of special blocks; added to where a block is found to be one.
    """

    def __init__(self, engine: GradientEngine, layouts: Layouts):
        self._engine = engine
        self._objective = objective = engine.objective
        self._layouts = layouts
        # Order among examples shows in two of them at least.
        self._part = max(2, engine.forward_batch(_PART))
        probes = objective.examples.spread(min(PROBES, self._part))
        self._where = torch.tensor(probes, device=objective.device)
        at = engine.linearise(objective.examples, self._where)
        self._cotangents = _random(at.outputs, 2, torch.Generator().manual_seed(0))
        self._truth = at.vjp_each(self._cotangents).transpose(0, 1)  # (k, b, p)
        self._tolerance = torch.finfo(objective.dtype).eps ** 0.5

    def mismatches(self, sites: Sequence[Site]) -> dict[str, str]:
        """The sites, by name, whose rule does not give these gradients, and why."""
        capture = self._attempt(sites)
        if isinstance(capture, str):
            return self._culprits(sites, capture)
        found = {}
        for site in sites:
            reason = self._mismatch(site, capture)
            if reason is not None:
                found[site.name] = reason
        return found

    def mark_sequence_first(self, sites: Sequence[Site]) -> None:
        """A sequence-first input of a single position looks as if one tensor served all examples."""
        count = len(self._where)
        capture = self._attempt(sites)
        if isinstance(capture, str):
            return  # `mismatches` makes the same attempt, and finds out whose fault it is
        for site in sites:
            for block in site.blocks:
                shapes = [call.inputs.shape[:2] for call in capture.tape.calls.get(block.name, [])]
                if count > 1 and shapes and all(shape == (1, count) for shape in shapes):
                    self._layouts.second.add(block.name)

    def repaired(self, sites: Sequence[Site], position: int, reason: str) -> Site:
        """A site that fits: the same where one of the layouts was all that was missing, or where nothing
        depends on its parameters; the dense fallback otherwise."""
        site = sites[position]
        truth = self._truth[:, :, torch.cat([block.index.reshape(-1) for block in site.blocks])]
        unused = replace(site, unused=True, reason="the outputs do not depend on it")
        if not bool(truth.any()) and not self.unordered([unused]):
            return unused
        names = {block.name for block in site.blocks}
        plain: set[str] = set()
        self._layouts.second -= names
        for special in (plain, self._layouts.second, self._layouts.shared, self._layouts.copied):
            special |= names
            if not self._mismatched_alone(sites, site, position):
                return site
            special -= names
        return demoted(site, self._objective.parameters, reason)

    def unordered(self, sites: Sequence[Site]) -> dict[str, str]:
        """Sites that do not see the examples one by one and in order, as happens where a batch is routed to
        several modules, or that are called although they seemed unused, and why; on more examples."""
        found: dict[str, str] = {}
        ruled = [site for site in sites if site.rule is not None]
        generator = torch.Generator().manual_seed(1)
        for capture in self._larger(ruled):
            try:
                capture.pull(_random(capture.outputs, 1, generator))
            except UnsupportedError as error:
                if len(ruled) > 1:
                    for site in ruled:
                        found |= self.unordered([site]) if site.blocks else {}
                    return found
                return {ruled[0].name: _first_line(error)}
        return found

    def elsewhere(self, sites: Sequence[Site]) -> dict[str, str]:
        """Sites whose gradients, summed over a few examples at a time, are not autograd's on more examples:
        parameters that some examples use in another way than those asked first; and why."""
        ruled = [site for site in sites if site.rule is not None and site.blocks and not site.unused]
        openers = [site for site in sites if site.rule is not None and not site.blocks]
        generator = torch.Generator().manual_seed(2)
        found: dict[str, str] = {}
        for where in self._parts():
            at = self._engine.linearise(self._objective.examples, where)
            random = _random(at.outputs, 1, generator)
            truth = at.vjp(random)[:, 0]
            batch, tape = self._objective.examples.batch(where), Tape(len(where), self._layouts)
            capture = Capture(self._objective, [*ruled, *openers], None, batch, tape)
            forms = iter(capture.gradients(random))
            for site in ruled:
                off, size = 0.0, 0.0
                for block in site.blocks:
                    total = next(forms).total().reshape(-1)
                    own = truth[block.index.reshape(-1)]
                    off += float((total - own).norm())
                    size += float(total.norm() + own.norm())
                if not off <= self._tolerance * size:
                    assert site.rule is not None
                    found[site.name] = (
                        f"the rule {site.rule.name!r} gives other gradients than autograd on some examples"
                    )
        return found

    def _parts(self) -> Iterator[torch.Tensor]:
        """More examples than those asked first, a few at a time."""
        for part in torch.tensor(self._objective.examples.spread(_MANY)).split(self._part):
            yield part.to(self._objective.device)

    def _larger(self, sites: Sequence[Site]) -> Iterator[Capture]:
        """More examples, every call checked."""
        for where in self._parts():
            batch, tape = self._objective.examples.batch(where), Tape(len(where), self._layouts)
            yield Capture(self._objective, sites, None, batch, tape, check="all")

    def _mismatched_alone(self, sites: Sequence[Site], site: Site, position: int) -> bool:
        """Whether a site does not fit, together with those that open modules up."""
        openers = [
            other
            for place, other in enumerate(sites)
            if place != position and other.rule is not None and other.rule.opens
        ]
        return site.name in self.mismatches([site, *openers])

    def _culprits(self, sites: Sequence[Site], reason: str) -> dict[str, str]:
        """Sites that cannot be watched, when not all of them can."""
        ruled = [site for site in sites if site.rule is not None and site.blocks]
        if len(ruled) <= 1:
            return {site.name: reason for site in ruled}
        found: dict[str, str] = {}
        for site in ruled:
            found |= self.mismatches([site])
        return found or {site.name: reason for site in ruled}

    def _attempt(self, sites: Sequence[Site]) -> Capture | str:
        """The capture, or why there is none: a module may object in any way to an output that was given
        another layout. Want of memory is no objection to a layout."""
        try:
            return self._capture(sites)
        except Exception as error:
            if is_allocation_failure(error):
                raise
            return _first_line(error)

    def _capture(self, sites: Sequence[Site]) -> Capture:
        ruled = [site for site in sites if site.rule is not None]
        for _ in range(2):
            tape = Tape(len(self._where), self._layouts)
            batch = self._objective.examples.batch(self._where)
            capture = Capture(self._objective, ruled, None, batch, tape, check="none")
            overwritten = {
                name for name, calls in tape.calls.items() if any(call.overwritten for call in calls)
            }
            if not overwritten:
                break
            self._layouts.copied.update(overwritten)
        capture.pull(self._cotangents)
        return capture

    def _mismatch(self, site: Site, capture: Capture) -> str | None:
        if site.rule is None:
            return None
        for block in site.blocks:
            calls = capture.tape.calls.get(block.name)
            truth = self._truth[:, :, block.index.reshape(-1)]
            if site.unused:
                if bool(truth.any()):
                    return "its parameters are used from outside"
                continue
            if calls is None:
                return "the module is never called: its parameters are used from outside"
            try:
                rows = site.rule.form(site.modules[0], block, calls, capture.tape.batch).rows()
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                if is_allocation_failure(error):
                    raise
                return f"the rule {site.rule.name!r} does not fit its calls ({_first_line(error)})"
            if not bool((rows - truth).norm() <= self._tolerance * (rows.norm() + truth.norm())):
                return f"the rule {site.rule.name!r} gives other gradients than autograd"
        return None


def _random(outputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` cotangents, drawn on the CPU: the same on every device."""
    return torch.randn(count, *outputs.shape, generator=generator, dtype=outputs.dtype).to(outputs.device)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
