"""Other studies on the page of an audit: labels, slices, attacks, the shape of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Attributor, SelfScores, as_fit
from wherefrom.report import Panel, blocks_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.attack.study import Attack, require_attackable
from wherefrom.studies.geometry.study import Geometry
from wherefrom.studies.labels import has_class_labels
from wherefrom.studies.labels.study import Labels
from wherefrom.studies.slices.study import Slices
from wherefrom.studies.spectra.study import Spectrum
from wherefrom.studies.study import Result, Rows, Say
from wherefrom.studies.task import Task


@dataclass
class Embedded:
    """What else was found, as panels of the page, tables, and headline numbers by study."""

    panels: list[Panel] = field(default_factory=list)
    tables: dict[str, tuple[Sequence[str], Rows]] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def add(self, name: str, result: Result, panels: Sequence[Panel]) -> None:
        """The answer of one study."""
        self.panels += panels
        self.tables |= result.tables()
        self.summaries[name] = result.summary()
        self.results.append(result)

    def save(self, folder: Path) -> None:
        """Write what is no table: each study's summary, and what else it saves."""
        for result in self.results:
            result.save(folder)
        for name, summary in self.summaries.items():
            write_atomically(folder / f"{name}.json", dump_json(summary, indent=2) + "\n")


def attack_of(audit: Any) -> Attack:
    """The attack that an audit asks for by `poison`."""
    edits = sorted({k for k in (1, 2, 10) if k < audit.poison} | {audit.poison})
    return Attack(edits=",".join(map(str, edits)))


def require_embeddable(audit: Any, attributor: Attributor, task: Task) -> None:
    """Refuse before anything long what cannot be attacked.

    Raises:
        InputError: why.
    """
    if audit.poison:
        fitted = as_fit(attributor, "attacks on the training set")
        require_attackable(task, fitted, attack_of(audit).asked)


def embedded_studies(
    audit: Any, attributor: Attributor, task: Task, self_scores: SelfScores | None, say: Say
) -> Embedded:
    """The studies that the task and the options ask for.

    Args:
        audit: its options.
        attributor, task: of the audit.
        self_scores: that were computed already.
        say: called with each stage.
    """
    found = Embedded()
    if task.train_groups is not None or task.query_groups is not None:
        slices = Slices(top=audit.top)
        slices.check(task)
        result = slices.run(attributor, task, say)
        found.add("slices", result, [blocks_panel(Slices.question, result.section().blocks)])
    ranked = self_scores is not None or (audit.review and not attributor.has_self_scores)
    if ranked and has_class_labels(attributor.objective):
        labels = Labels().run(attributor, task, self_scores=self_scores)
        found.panels.append(blocks_panel("Labels to check", labels.blocks()))
    if audit.poison:
        attack = attack_of(audit).run(attributor, task, say)
        found.add("attack", attack, [blocks_panel(Attack.question, attack.section().blocks)])
    if audit.shape:
        _add_shape(found, attributor, task, say)
    return found


def _add_shape(found: Embedded, attributor: Attributor, task: Task, say: Say) -> None:
    """Spectrum and geometry; inputs that have no gradient leave out the latter, which is said."""
    spectrum = Spectrum().run(attributor, task, say)
    found.add("spectrum", spectrum, [blocks_panel(Spectrum.question, spectrum.section().blocks)])
    try:
        geometry = Geometry().run(attributor, task, say)
    except UnsupportedError as error:
        say(f"{task.name}: no gradients in the input: {error}")
        return
    found.add("geometry", geometry, [blocks_panel(Geometry.question, geometry.section().blocks)])
