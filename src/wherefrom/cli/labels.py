"""From a task to a ranking of its labels: signs, files and a page. No mathematics, no printing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wherefrom.api import Influence
from wherefrom.cli.files import write_table
from wherefrom.cli.selection import largest_losses
from wherefrom.cli.task_cards import train_cards
from wherefrom.cli.task_file import AuditTask
from wherefrom.errors import InputError
from wherefrom.influence import SelfScores, Trust, trust_of
from wherefrom.report import Card, Panel, write_panels
from wherefrom.report.labels_panel import labels_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.labels import COMBINED, PROPOSALS_RIGHT, LabelAudit

TITLE = "Which of these labels are wrong?"
LEAD = (
    "Signs that a training label is a mistake, from the trained model alone: what it makes of the example, "
    "what it would make of it had it never seen it, and what the label does to the loss of other examples."
)


@dataclass(frozen=True)
class LabelsOptions:
    """What the command line chooses.

    Attributes:
        top: examples listed and shown.
        review: training examples looked at, those of largest loss; 0: all.
        by: the sign they are ranked by.
        solver: name of a solver, instead of the task's.
        progress: show progress bars.
    """

    top: int = 12
    review: int = 0
    by: str = COMBINED
    solver: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top={self.top}: expected at least 1")
        if self.review < 0:
            raise InputError(f"review={self.review}: expected 0 (all training examples) or more")


@dataclass(frozen=True)
class LabelsResult:
    """What was found about a task's labels."""

    task: AuditTask
    audit: LabelAudit
    card: Callable[[int], Card]
    top: int
    by: str
    trust: Trust | None = None

    def panel(self) -> Panel:
        """Its block of a page."""
        return labels_panel(self.audit, self.card, top=self.top, by=self.by)


def find_labels(
    task: AuditTask,
    influence: Influence,
    options: LabelsOptions,
    self_scores: SelfScores | None = None,
) -> LabelsResult:
    """The signs for a fitted task, with the task's validation set if it has one.

    Raises:
        InputError: as `wherefrom.studies.labels.label_signals`.
    """
    objective = influence.objective
    indices = None
    if self_scores is None and options.review:
        indices = largest_losses(influence, objective.examples, options.review)
    audit = influence.labels(
        task.validation, indices=indices, self_scores=self_scores, class_names=task.class_names
    )
    audit.suspicion(options.by)  # an unknown sign is refused before anything is written
    card = train_cards(task, influence)
    return LabelsResult(task, audit, card, options.top, options.by, trust_of(influence))


def run_labels(
    task: AuditTask,
    out: str | Path,
    options: LabelsOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> LabelsResult:
    """Write `report.html`, `labels.csv` (every example, the most suspicious first) and `labels.json`.

    Raises:
        WherefromError: whatever is wrong with the task.
    """
    options = options or LabelsOptions()
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress)
    on_stage(f"{task.name}: signs of wrong labels among {influence.objective.n:,} training examples")
    result = find_labels(task, influence, options)
    on_stage("writing the page")
    out = Path(out)
    write_labels(result, out)
    write_panels(out / "report.html", [result.panel()], TITLE, LEAD, result.trust)
    return result


def write_labels(result: LabelsResult, out: Path) -> None:
    """Write the table and the summary.

    Raises:
        StoreError: a file cannot be written.
    """
    audit = result.audit
    names = ("rank", "train", "given", "proposed", "predicted", COMBINED, *audit.signals, "most_helpful")
    write_table(out / "labels.csv", names, _rows(audit, result.by))
    found, ranking, wrong = audit.agreement(), audit.ranking, audit.wrong
    summary = {
        "name": result.task.name,
        "n": audit.n,
        "looked_at": len(audit),
        "classes": list(audit.class_names),
        "signals": list(audit.signals),
        "ranked_by": result.by,
        "combined": {
            "leads": ranking.by,
            "loss_weight": ranking.loss_weight,
            "far_off": None if math.isnan(ranking.far_off) else ranking.far_off,
            "harm_weight": ranking.harm_weight,
        },
        "wrong_labels": {
            "estimate": wrong.estimate,
            "low": wrong.low,
            "high": wrong.high,
            "told": wrong.told,
            "words": wrong.words,
        },
        "converged": audit.converged,
        "proposed_changes": int((audit.proposed != audit.given).sum()),
        "proposals_right": PROPOSALS_RIGHT,
        "top": [vars(suspect) for suspect in audit.top(result.top, result.by)],
        "agreement": {
            "names": list(found.names),
            "spearman": found.spearman.tolist(),
            "overlap": found.overlap.tolist(),
            "k": found.k,
        },
        "settings": dict(audit.settings),
        "trust": None if result.trust is None else result.trust.as_dict(),
    }
    write_atomically(out / "labels.json", dump_json(summary, indent=2) + "\n")


def _rows(audit: LabelAudit, by: str) -> Iterator[tuple[Any, ...]]:
    combined = dict(zip(audit.index.tolist(), audit.combined.tolist()))
    helpful: dict[int, str] = {}
    if audit.most_helpful is not None:
        named = (audit.class_names[c] for c in audit.most_helpful.tolist())
        helpful = dict(zip(audit.index.tolist(), named))
    for row in audit.top(len(audit), by):
        yield (
            row.rank,
            row.train,
            row.given,
            row.proposed,
            row.predicted,
            combined[row.train],
            *row.signals.values(),
            helpful.get(row.train, ""),
        )
