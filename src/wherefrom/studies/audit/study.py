"""`wherefrom audit`: where predictions came from, with an error beside each score, and the answer of
retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wherefrom.evaluation import Verification, verify_removals
from wherefrom.influence import Attributor, Fit, Scores, SelfScores, Trust
from wherefrom.influence.kept import scores_of, self_scores_of
from wherefrom.report import DEFAULT_TITLE, ReportSection, Section, audit_section, build_section
from wherefrom.report.page import LEAD
from wherefrom.studies.audit import files
from wherefrom.studies.audit.embedded import Embedded, embedded_studies, require_embeddable
from wherefrom.studies.selection import choose_queries, largest_losses
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet
from wherefrom.studies.task import Task

_REMOVALS = 20


@dataclass(frozen=True)
class Audit(Study):
    """Trace a model's predictions to its training examples, and write one page about it."""

    name: ClassVar[str] = "audit"
    question: ClassVar[str] = DEFAULT_TITLE
    lead: ClassVar[str] = LEAD
    verifies: ClassVar[bool] = True

    top: int = option(5, "Helpful and harmful examples shown per query.", least=1)
    remove: int | None = option(
        None, "Examples to leave out and retrain without (0: none; default: the task's, or 20).", least=0
    )
    queries: int = option(8, "Queries at most: those of largest loss.", least=1)
    review: int = option(
        2000, "Training examples ranked by self-influence, of largest loss (0: none).", least=0
    )
    poison: int = option(0, "Attack the training set with up to so many edited examples (0: no).", least=0)
    shape: bool = option(False, "Show the curvature and the gradients of the loss too.")

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> AuditResult:
        """Score, rank, retrain, and what else the task and the options ask for.

        Raises:
            WherefromError: whatever is wrong with the task; finished retrainings are kept.
        """
        require_embeddable(self, attributor, task)
        queries, numbers = choose_queries(attributor, task.queries, self.queries)
        n = attributor.objective.n
        say(f"{task.name}: scoring {n:,} training examples for {len(numbers)} queries")
        # Scores of an approximate curvature cannot be corrected one by one.
        refine = self.top if isinstance(attributor, Fit) and not attributor.prepared.approximates else 0
        scores = scores_of(attributor, queries, task.measurement, refine=refine)
        self_scores = self._self_scores(attributor, task, say)
        verification = self._verified(attributor, task, queries, scores, say)
        verdict = None if verification is None else verification.judgement().verdict
        embedded = embedded_studies(self, attributor, task, self_scores, verdict, say)
        section = build_section(
            attributor,
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
            top=self.top,
            blocks=embedded.blocks,
        )
        return AuditResult(section, numbers, embedded, section.trust)

    def _self_scores(self, attributor: Attributor, task: Task, say: Say) -> SelfScores | None:
        """Of the examples of largest loss; `None` where they are not asked for, or the method has none."""
        if not self.review or not attributor.has_self_scores:
            return None
        candidates = largest_losses(attributor, attributor.objective.examples, self.review)
        say(f"{task.name}: self-influence of {len(candidates):,} training examples")
        return self_scores_of(attributor, candidates)

    def _verified(
        self, attributor: Attributor, task: Task, queries: Any, scores: Scores, say: Say
    ) -> Verification | None:
        removals = task.remove if self.remove is None else self.remove
        removals = _REMOVALS if removals is None else removals
        if task.recipe is None or not removals:
            return None
        say(f"{task.name}: retraining without each of {removals} examples")
        return verify_removals(
            attributor,
            queries,
            task.recipe,
            remove=removals,
            seeds=task.seeds,
            reduction=task.reduction,
            measurement=task.measurement,
            scores=scores,
        )


@dataclass(frozen=True)
class AuditResult(Result):
    """Everything found for one task."""

    page: ReportSection
    query_numbers: Sequence[int]
    embedded: Embedded
    trust: Trust

    def section(self) -> Section:
        """Verdicts, queries with their examples, charts, and what was embedded."""
        return audit_section(self.page, self.trust)

    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        return files.summary(self)

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """Scores of the examples shown, self-influence, and what retraining did."""
        return {**self.embedded.tables, **files.tables(self)}

    def save(self, folder: Any) -> None:
        """All scores, as `load_scores` reads them."""
        files.save(self, folder)
