"""From a task with groups to tables, files and a page: who carries whose error. No mathematics, no
printing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wherefrom.api import Influence
from wherefrom.errors import InputError
from wherefrom.influence import Trust, trust_of
from wherefrom.report import Card, Panel, write_panels
from wherefrom.report.files import write_table
from wherefrom.report.slices_panel import harmful_panel, slices_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.cards import train_cards
from wherefrom.studies.slices import CLUSTER_COLUMNS, COLUMNS, GroupInfluence, HarmfulGroups
from wherefrom.studies.task import Task

TITLE = "Who carries whose error?"
LEAD = (
    "What each group of training examples does to each group of queries, and which training examples hurt "
    "together: predicted from the trained model, to first order."
)


@dataclass(frozen=True)
class SlicesOptions:
    """What the command line chooses.

    Attributes:
        top: most harmful training examples listed per query group and cluster.
        clusters: how many; 0: where harm differs.
        solver: name of a solver, instead of the task's.
        progress: show progress bars.
    """

    top: int = 5
    clusters: int = 0
    solver: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top={self.top}: expected at least 1")
        if self.clusters < 0 or self.clusters == 1:
            raise InputError(
                f"clusters={self.clusters}: expected 0 (cut where harm differs) or a number from 2 on"
            )


@dataclass(frozen=True)
class SlicesResult:
    """What was found for a task: the table, if it names groups, and the clusters, if it has a validation
    set."""

    task: Task
    table: GroupInfluence | None
    clusters: HarmfulGroups | None
    card: Callable[[int], Card]
    top: int
    trust: Trust | None = None

    def panels(self) -> list[Panel]:
        """Its blocks of a page."""
        made = [] if self.table is None else [slices_panel(self.table, self.card, top=self.top)]
        if self.clusters is not None:
            names = self.task.class_names
            made.append(harmful_panel(self.clusters, self.card, class_names=names, top=self.top))
        return made


def find_slices(
    task: Task, influence: Influence, options: SlicesOptions, on_stage: Callable[[str], None]
) -> SlicesResult:
    """The table of groups and the harmful clusters of a fitted task.

    Raises:
        InputError: the task names queries' groups only, or names that do not fit its examples.
    """
    if task.query_groups is not None and task.train_groups is None:
        raise InputError(
            f"{task.name}: query_groups is given without train_groups; name the group of each training "
            "example too (or one name for all of them)"
        )
    table = clusters = None
    if task.train_groups is not None:
        on_stage(f"{task.name}: influence of training groups on query groups")
        table = influence.slices(
            task.queries, task.train_groups, task.query_groups, measurement=task.measurement
        )
    if task.validation is not None:
        on_stage(f"{task.name}: clusters of training examples that hurt the validation set")
        clusters = influence.harmful_groups(
            task.validation, clusters=options.clusters or "auto", measurement=task.measurement
        )
    solved = (table is None or bool(table.converged.all())) and (clusters is None or clusters.converged)
    trust = trust_of(influence, converged=solved)
    return SlicesResult(task, table, clusters, train_cards(task, influence), options.top, trust)


def run_slices(
    task: Task,
    out: str | Path,
    options: SlicesOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> SlicesResult:
    """Write `report.html`, `slices.json`, and `slices.csv`, `carriers.csv`, `clusters.csv`, `members.csv`
    as far as the task defines groups and a validation set.

    Raises:
        WherefromError: whatever is wrong with the task.
    """
    options = options or SlicesOptions()
    if task.train_groups is None and task.query_groups is None and task.validation is None:
        raise InputError(
            f"{task.name} defines no groups: give train_groups (and query_groups), one name per example, "
            "or a validation set for clusters that hurt it"
        )
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress)
    result = find_slices(task, influence, options, on_stage)
    on_stage("writing the page")
    out = Path(out)
    write_slices(result, out)
    write_panels(out / "report.html", result.panels(), TITLE, LEAD, result.trust)
    return result


def write_slices(result: SlicesResult, out: Path) -> None:
    """Write the tables and the summary.

    Raises:
        StoreError: a file cannot be written.
    """
    table, clusters = result.table, result.clusters
    if table is not None:
        rows = list(table)
        write_table(out / "slices.csv", COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
        write_table(
            out / "carriers.csv",
            ("query_group", "rank", "train", "train_group", "score", "error", "change"),
            (
                (name, rank, *row.values())
                for name in table.queries.names
                for rank, row in enumerate(table.harmful(name, result.top), 1)
            ),
        )
    if clusters is not None:
        write_table(
            out / "clusters.csv",
            CLUSTER_COLUMNS,
            ([row[name] for name in CLUSTER_COLUMNS] for row in clusters.rows()),
        )
        write_table(
            out / "members.csv",
            ("train", "cluster", "harm"),
            (
                (int(i), rank, float(clusters.harm[i]))
                for rank, cluster in enumerate(clusters, 1)
                for i in cluster.members
            ),
        )
    summary = {
        "name": result.task.name,
        "slices": None if table is None else list(table),
        "clusters": None if clusters is None else list(clusters.rows()),
        "trust": None if result.trust is None else result.trust.as_dict(),
        "settings": (table if table is not None else clusters).settings,  # type: ignore[union-attr]
    }
    write_atomically(out / "slices.json", dump_json(summary, indent=2) + "\n")
