"""`wherefrom slices`: who carries whose error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Fit, Trust, as_fit, trust_of
from wherefrom.influence.kept import kept
from wherefrom.report import Card, PageBlock, Section, Words
from wherefrom.studies.cards import train_cards
from wherefrom.studies.slices.clusters import HarmfulGroups
from wherefrom.studies.slices.groups import resolve_groups
from wherefrom.studies.slices.harmful import harmful_groups
from wherefrom.studies.slices.influence import group_influence
from wherefrom.studies.slices.shown import cluster_blocks, group_blocks
from wherefrom.studies.slices.table import GroupInfluence
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet, table_of
from wherefrom.studies.task import Task

_NO_CLUSTERS = (
    "are left out: they are made of the gradients and the curvature of an influence function, which this "
    "method does not have."
)


@dataclass(frozen=True)
class Slices(Study):
    """Find which groups of training examples carry the error of which groups of queries.

    The task file names them: train_groups and query_groups, one name per example. With a validation set it
    also finds clusters of training examples that hurt it together.
    """

    name: ClassVar[str] = "slices"
    question: ClassVar[str] = "Who carries whose error?"
    lead: ClassVar[str] = (
        "What each group of training examples does to each group of queries, and which training examples "
        "hurt together: from the trained model alone, without training it again."
    )

    top: int = option(5, "Most harmful training examples listed per query group.", least=1)
    clusters: int = option(0, "Clusters of training examples (0: where their harm differs).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters < 0 or self.clusters == 1:
            raise InputError(
                f"clusters={self.clusters}: expected 0 (cut where harm differs) or a number from 2 on"
            )

    def check(self, task: Task) -> None:
        """Refuse a task without groups and validation set, or with groups of queries alone."""
        if task.train_groups is None and task.query_groups is None and task.validation is None:
            raise InputError(
                f"{task.name} defines no groups: give train_groups (and query_groups), one name per example, "
                "or a validation set for clusters that hurt it"
            )
        if task.query_groups is not None and task.train_groups is None:
            raise InputError(
                f"{task.name}: query_groups is given without train_groups; name the group of each training "
                "example too (or one name for all of them)"
            )

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> SlicesResult:
        """The table of groups, and the harmful clusters where the method has gradients.

        Raises:
            InputError: names that do not fit the task's examples.
        """
        table = clusters = None
        if task.train_groups is not None:
            say(f"{task.name}: influence of training groups on query groups")
            table = _table(attributor, task)
        if task.validation is not None and isinstance(attributor, Fit):
            say(f"{task.name}: clusters of training examples that hurt the validation set")
            clusters = _clusters(attributor, task, self.clusters)
        if table is None and clusters is None:
            as_fit(attributor, "clusters of training examples")
        missing = task.validation is not None and clusters is None
        solved = (table is None or bool(table.converged.all())) and (clusters is None or clusters.converged)
        trust = trust_of(attributor, converged=solved)
        card = train_cards(task, attributor)
        return SlicesResult(task.name, task.class_names, table, clusters, card, self.top, trust, missing)


def _table(attributor: Attributor, task: Task) -> GroupInfluence:
    objective, measurement = attributor.objective, task.measurement
    train = resolve_groups(task.train_groups, objective.n, "train_groups")
    asked = None
    if task.query_groups is not None:
        q = len(objective.read(task.queries, role="queries"))
        asked = resolve_groups(task.query_groups, q, "query_groups")
    return kept(
        attributor,
        "influence of groups",
        lambda: group_influence(
            attributor, task.queries, task.train_groups, task.query_groups, measurement=measurement
        ),
        of=[(groups.names, groups.members) for groups in (train, asked) if groups is not None],
        queries=task.queries,
        measurement=measurement,
    )


def _clusters(fitted: Fit, task: Task, count: int) -> HarmfulGroups:
    measurement = task.measurement
    return kept(
        fitted,
        "harmful clusters",
        lambda: harmful_groups(fitted, task.validation, clusters=count or "auto", measurement=measurement),
        of=[count, fitted.objective.read(task.validation, role="validation").fingerprint()],
        measurement=measurement,
    )


@dataclass(frozen=True)
class SlicesResult(Result):
    """What was found for a task: the table, if it names groups, and the clusters, if it has a validation
    set."""

    name: str
    class_names: Sequence[str] | None
    table: GroupInfluence | None
    clusters: HarmfulGroups | None
    card: Callable[[int], Card]
    top: int
    trust: Trust
    no_clusters: bool = False

    def section(self) -> Section:
        """The groups, the clusters, and what is left out."""
        blocks: list[PageBlock] = []
        if self.table is not None:
            blocks += group_blocks(self.table, self.card, top=self.top)
        if self.clusters is not None:
            blocks += cluster_blocks(self.clusters, self.card, class_names=self.class_names, top=self.top)
        if self.no_clusters:
            blocks.append(Words(_NO_CLUSTERS, lead="Clusters that hurt together", tone="muted"))
        return Section(self.name, self.trust, blocks)

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`slices.csv` and `carriers.csv`, `clusters.csv` and `members.csv`, as far as there are such."""
        made: dict[str, tuple[Sequence[str], Rows]] = {}
        table, clusters = self.table, self.clusters
        if table is not None:
            made["slices"] = table_of(table)
            made["carriers"] = table_of(
                {"query_group": name, "rank": rank, **row}
                for name in table.queries.names
                for rank, row in enumerate(table.harmful(name, self.top), 1)
            )
        if clusters is not None:
            made["clusters"] = table_of(clusters.rows())
            made["members"] = (
                ("train", "cluster", "harm"),
                (
                    (int(i), rank, float(clusters.harm[i]))
                    for rank, cluster in enumerate(clusters, 1)
                    for i in cluster.members
                ),
            )
        return made

    def summary(self) -> dict[str, Any]:
        """Both tables as JSON values."""
        table, clusters = self.table, self.clusters
        return {
            "slices": None if table is None else list(table),
            "clusters": None if clusters is None else list(clusters.rows()),
            "settings": (table if table is not None else clusters).settings,  # type: ignore[union-attr]
        }
