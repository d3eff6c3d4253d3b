"""Other studies on the page of an audit: labels, slices, attacks, the shape of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Attributor, SelfScores, as_fit
from wherefrom.report import PageBlock
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.attack.study import Attack, require_attackable
from wherefrom.studies.geometry.study import Geometry
from wherefrom.studies.kept_trust import with_retraining
from wherefrom.studies.labels import has_class_labels
from wherefrom.studies.labels.study import Labels
from wherefrom.studies.slices.study import Slices
from wherefrom.studies.spectra.study import LossSpectrum
from wherefrom.studies.study import Result, Rows, Say, Study
from wherefrom.studies.task import Task


@dataclass
class Embedded:
    """What else was found, as blocks of the page, tables, and headline numbers by study."""

    blocks: list[PageBlock] = field(default_factory=list)
    tables: dict[str, tuple[Sequence[str], Rows]] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def ask(self, study: Study, attributor: Attributor, task: Task, verdict: str | None, say: Say) -> Result:
        """Its answer, which says no more than the audit's retraining allows."""
        result = study.run(attributor, task, say)
        if study.needs_fit and result.trust.retraining is None:
            result = result.with_trust(with_retraining(result.trust, attributor, verdict))
        return result

    def add(self, study: Study, result: Result, *, page: bool = False) -> None:
        """The answer of one study with its files; `page` alone where a terminal has enough already."""
        self.show(study, result, page=page)
        self.tables |= result.tables()
        self.summaries[study.name] = result.summary()
        self.results.append(result)

    def show(self, study: Study, result: Result, *, page: bool = False) -> None:
        """Its blocks, under its question where they have no heading of their own."""
        first, *rest = result.section().blocks
        blocks = [replace(first, heading=first.heading or study.question), *rest]
        if page:
            blocks = [replace(block, where="page") for block in blocks if block.where != "terminal"]
        self.blocks += blocks

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
    audit: Any,
    attributor: Attributor,
    task: Task,
    self_scores: SelfScores | None,
    verdict: str | None,
    say: Say,
) -> Embedded:
    """The studies that the task and the options ask for.

    Args:
        audit: its options.
        attributor, task: of the audit.
        self_scores: that were computed already.
        verdict: of retraining, if there was any.
        say: called with each stage.
    """
    found = Embedded()
    if task.train_groups is not None or task.query_groups is not None:
        slices = Slices(top=audit.top)
        slices.check(task)
        found.add(slices, found.ask(slices, attributor, task, verdict, say), page=True)
    ranked = self_scores is not None or (audit.review and not attributor.has_self_scores)
    if ranked and has_class_labels(attributor.objective):
        labels = Labels()
        found.show(labels, labels.run(attributor, task, self_scores=self_scores), page=True)
    if audit.poison:
        attack = attack_of(audit)
        found.add(attack, found.ask(attack, attributor, task, verdict, say))
    if audit.shape:
        _add_shape(found, attributor, task, verdict, say)
    return found


def _add_shape(found: Embedded, attributor: Attributor, task: Task, verdict: str | None, say: Say) -> None:
    """The spectrum and the geometry; inputs that have no gradient leave out the latter, which is said."""
    spectrum, geometry = LossSpectrum(), Geometry()
    found.add(spectrum, found.ask(spectrum, attributor, task, verdict, say))
    try:
        found.add(geometry, found.ask(geometry, attributor, task, verdict, say))
    except UnsupportedError as error:
        say(f"{task.name}: no gradients in the input: {error}")
