"""Other studies on the page of an audit: labels, slices, attacks, the shape of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wherefrom.influence import Attributor, SelfScores
from wherefrom.report import Panel, blocks_panel
from wherefrom.studies.labels import has_class_labels
from wherefrom.studies.labels.study import Labels
from wherefrom.studies.study import Result, Rows, Say
from wherefrom.studies.task import Task

if TYPE_CHECKING:
    from wherefrom.studies.audit.study import Audit


@dataclass
class Embedded:
    """What else was found, as panels of the page, tables, and headline numbers by study."""

    panels: list[Panel] = field(default_factory=list)
    tables: dict[str, tuple[Sequence[str], Rows]] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, result: Result, panels: Sequence[Panel]) -> None:
        """The answer of one study."""
        self.panels += panels
        self.tables |= result.tables()
        self.summaries[name] = result.summary()


def require_embeddable(audit: Audit, attributor: Attributor, task: Task) -> None:
    """Refuse before anything long what cannot be attacked.

    Raises:
        InputError: why.
    """
    if audit.poison:
        raise NotImplementedError


def embedded_studies(
    audit: Audit, attributor: Attributor, task: Task, self_scores: SelfScores | None, say: Say
) -> Embedded:
    """The studies that the task and the options ask for.

    Args:
        audit: its options.
        attributor, task: of the audit.
        self_scores: that were computed already.
        say: called with each stage.
    """
    found = Embedded()
    if self_scores is not None and has_class_labels(attributor.objective):
        labels = Labels().run(attributor, task, self_scores=self_scores)
        found.panels.append(blocks_panel("Labels to check", labels.blocks()))
    return found
