"""From tasks to a page and files: fit, score, rank, retrain, write. No mathematics and no printing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wherefrom.cli.attack import AttackReport, find_attack, require_attackable, write_attack
from wherefrom.cli.attack_options import AttackOptions
from wherefrom.cli.files import write_results, write_summary
from wherefrom.cli.shape import shape_panels
from wherefrom.cli.slices import SlicesOptions, find_slices, write_slices
from wherefrom.errors import InputError
from wherefrom.evaluation import Verification
from wherefrom.influence import Scores, SelfScores
from wherefrom.report import DEFAULT_TITLE, ReportSection, blocks_panel, build_section, write_report
from wherefrom.report.files import slug
from wherefrom.solvers import PreparedBlocks
from wherefrom.studies.labels import has_class_labels
from wherefrom.studies.labels.study import Labels
from wherefrom.studies.selection import choose_queries, largest_losses
from wherefrom.studies.task import Task


@dataclass(frozen=True)
class AuditOptions:
    """What the command line chooses.

    Attributes:
        top: helpful and harmful examples shown, and refined, per query.
        remove: retrainings; `None` leaves it to the task, and to 20 if it says nothing.
        queries: queries shown at most; those of largest loss where there are more.
        review: training examples ranked by self-influence at most; those of largest loss where there are
            more, since each costs a solve. 0: none.
        poison: training examples that attacks on the training set edit at most; 0: no attacks.
        shape: look at the curvature and the gradients of the loss too.
        solver: name of a solver, instead of the task's; `None` leaves it to the task.
        progress: show progress bars.
        resumable: keep Kronecker factors and each finished retraining under the output directory, so that a
            killed audit resumes.
    """

    top: int = 5
    remove: int | None = None
    queries: int = 8
    review: int = 2000
    poison: int = 0
    shape: bool = False
    solver: str | None = None
    progress: bool = True
    resumable: bool = True

    def __post_init__(self) -> None:
        for name, value in (("top", self.top), ("queries", self.queries)):
            if value < 1:
                raise InputError(f"{name}={value}: expected at least 1")
        if self.remove is not None and self.remove < 0:
            raise InputError(f"remove={self.remove}: expected 0 (no retraining) or more")
        if self.review < 0:
            raise InputError(f"review={self.review}: expected 0 (no ranking) or more")
        if self.poison < 0:
            raise InputError(f"poison={self.poison}: expected 0 (no attacks) or more")


@dataclass(frozen=True)
class AuditResult:
    """Everything found for one task, and where it was written."""

    task: Task
    section: ReportSection
    scores: Scores
    self_scores: SelfScores | None
    verification: Verification | None
    query_numbers: list[int]
    seconds: float
    folder: Path
    attack: AttackReport | None = None


def run_audits(
    tasks: Sequence[Task],
    out: str | Path,
    options: AuditOptions | None = None,
    *,
    title: str = DEFAULT_TITLE,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> list[AuditResult]:
    """Audit each task and write `report.html`, `summary.json`, scores, self-influence and verification
    under `out`.

    With several tasks, each has a folder of its own beside the common page and summary.

    Raises:
        WherefromError: whatever is wrong with a task; of that task only finished retrainings are kept.
    """
    options = options or AuditOptions()
    out = Path(out)
    results = []
    for task in tasks:
        folder = out if len(tasks) == 1 else out / slug(task.name)
        result = _audit(task, folder, options, on_stage)
        write_results(result)
        results.append(result)
    on_stage("writing the page")
    write_report(out / "report.html", [result.section for result in results], title)
    write_summary(out / "summary.json", results)
    return results


def _audit(task: Task, folder: Path, options: AuditOptions, on_stage: Callable[[str], None]) -> AuditResult:
    started = time.perf_counter()
    removals = task.remove if options.remove is None else options.remove
    removals = 20 if removals is None else removals
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(
        solver=options.solver,
        progress=options.progress,
        run_dir=folder / "run" if options.resumable else None,
    )
    edits = tuple(sorted({k for k in (1, 2, 10) if k < options.poison} | {options.poison}))
    if options.poison:
        require_attackable(task, influence, AttackOptions(edits=edits))
    queries, numbers = choose_queries(influence, task.queries, options.queries)
    on_stage(f"{task.name}: scoring {influence.objective.n:,} training examples for {len(numbers)} queries")
    # Scores of an approximate curvature cannot be corrected one by one.
    refine = 0 if isinstance(influence.prepared, PreparedBlocks) else options.top
    scores = influence.scores(queries, task.measurement, refine=refine)
    self_scores = None
    if options.review:
        candidates = largest_losses(influence, influence.objective.examples, options.review)
        on_stage(f"{task.name}: self-influence of {len(candidates):,} training examples")
        self_scores = influence.self_scores(candidates)
    verification = None
    if task.recipe is not None and removals:
        on_stage(f"{task.name}: retraining without each of {removals} examples")
        verification = influence.verify(
            queries,
            task.recipe,
            remove=removals,
            seeds=task.seeds,
            reduction=task.reduction,
            measurement=task.measurement,
            scores=scores,
        )
    groups = None
    if task.train_groups is not None or task.query_groups is not None:
        groups = find_slices(
            task, influence, SlicesOptions(top=options.top, progress=options.progress), on_stage
        )
        write_slices(groups, folder)
    panels = [] if groups is None else groups.panels()
    if self_scores is not None and has_class_labels(influence.objective):
        panels.append(
            blocks_panel("Labels to check", Labels().run(influence, task, self_scores=self_scores).blocks())
        )
    attack = None
    if options.poison:
        attack = find_attack(task, influence, AttackOptions(edits=edits), on_stage)
        write_attack(attack, folder)
        panels.append(attack.panel)
    if options.shape:
        panels += shape_panels(task, influence, folder, on_stage)
    section = build_section(
        influence,
        queries,
        scores,
        name=task.name,
        verification=verification,
        self_scores=self_scores,
        describe_train=task.describe_train,
        describe_query=task.describe_query,
        class_names=task.class_names,
        query_numbers=numbers,
        facts=task.facts,
        top=options.top,
        panels=panels,
    )
    seconds = time.perf_counter() - started
    return AuditResult(task, section, scores, self_scores, verification, numbers, seconds, folder, attack)
