"""What people see of groups: who carries whose error, and which training examples hurt together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wherefrom.influence import unresolved
from wherefrom.report import Card, Cards, Cell, Column, PageBlock, Shown, Table, Words
from wherefrom.report.blocks import Tone
from wherefrom.report.describe import label_text
from wherefrom.report.numbers import error_beside, number, percent, shown_error
from wherefrom.studies.slices.clusters import HarmfulGroups, label_words, share_words
from wherefrom.studies.slices.table import LARGE_SHARE, GroupInfluence

# Of larger tables the part with the largest changes is shown; the files hold all of it.
MOST_ROWS, MOST_COLUMNS = 24, 8
# Query groups shown with what carries their error: those served worst. In the terminal, training groups and
# single examples of each.
_MOST_CARRIED, _TRAIN_GROUPS, _EXAMPLES = 4, 8, 3
# A training group is said to carry an error when its share of the harm is so many times that of the examples.
_CARRIES = 1.2
# Clusters shown at the least, where so many harm, and at the most.
_LEAST_CLUSTERS, _MOST_CLUSTERS = 3, 8


def group_blocks(table: GroupInfluence, card: Callable[[int], Card], *, top: int = 5) -> list[PageBlock]:
    """Training groups × query groups by colour, and what carries the error of the query groups that are
    served worst.

    Args:
        table: of training groups × query groups.
        card: from a training index to what people see of it.
        top: most harmful training examples shown for each of these query groups.
    """
    shares = table.share_of_harm
    worst = table.measured.argsort(descending=not table.higher_is_better, stable=True)[:_MOST_CARRIED]
    carried = [_carried(table, shares, q, card, top) for q in worst.tolist()]
    blocks: list[PageBlock] = [*_heat_map(table, shares), Cards(carried, shown=len(carried))]
    if len(table.queries) > len(carried):
        rest = f"These are the {len(carried)} query groups that are served worst; the others are in "
        blocks.append(Words(f"{rest}slices.csv and carriers.csv.", tone="muted"))
    note = "change: predicted when the whole group is removed from training, to first order"
    if not table.sized:
        note = "scores: summed and divided by n, an order of likeness that predicts no change"
    note += "\n± sample: standard error for other queries of the group's kind"
    if any(_star(table, t) for t in range(len(table.train))):
        note += f"\n*: more than {percent(LARGE_SHARE)} of the training set: a direction, no reliable size"
    return [*blocks, Words(note, tone="muted", where="terminal")]


def cluster_blocks(
    groups: HarmfulGroups,
    card: Callable[[int], Card],
    *,
    class_names: Sequence[str] | None = None,
    top: int = 6,
) -> list[PageBlock]:
    """The clusters that harm, the worst first.

    Args:
        groups: the clusters.
        card: from a training index to what people see of it.
        class_names: names of the classes.
        top: members shown of each cluster.
    """
    total, certain = len(groups), len(groups.harmful)
    most = min(max(certain, _LEAST_CLUSTERS), _MOST_CLUSTERS)
    listed = [cluster for cluster in groups if cluster.harm > 0][:most]
    if certain:
        head = f"{certain} of {total} clusters of training examples {_verb(certain, 'harm')}"
    else:
        head = f"None of the {total} clusters of training examples harms"
    head += f" the {len(groups[0].changes):,} validation examples by more than all errors of that prediction."
    if listed:
        head += (
            f" Each is listed with the predicted change of the mean {groups.measurement} "
            f"({number(groups.measured, 3)} now) when all its members are removed."
        )
    if total == 1:  # all training examples: nobody would remove them
        listed, head = [], "The training examples form no clusters of different harm: there is none to show."
    blocks: list[PageBlock] = [Words(head, heading="Clusters that hurt together")]
    if not groups.converged:
        blocks.append(Words("The solver did NOT converge.", tone="poor"))
    if total == 1:
        return blocks
    cards = [_cluster(groups, rank, card, class_names, top) for rank in range(len(listed))]
    blocks.append(Cards(cards, shown=len(cards)))
    hidden = total - len(listed)
    if hidden:
        rest = f"{hidden} more cluster{_s(hidden)} that {_verb(hidden, 'harm')} less, or "
        blocks.append(Words(f"{rest}{_verb(hidden, 'help')}.", tone="muted"))
    return blocks


def shown_groups(table: GroupInfluence) -> tuple[list[int], list[int]]:
    """Which training groups and query groups the heat map has, in the table's order: those of largest
    change."""
    size = table.change.abs()
    columns = _largest(size.max(0).values, MOST_COLUMNS)
    return _largest(size[:, columns].max(1).values, MOST_ROWS), columns


def _heat_map(table: GroupInfluence, shares: Tensor) -> list[PageBlock]:
    rows, columns = shown_groups(table)
    largest = max(float(table.change[rows][:, columns].abs().max()), 1e-300)
    name = table.measurement
    count, reasons = unresolved(table.resolution(t, q) for t in rows for q in columns)
    if table.sized:
        words = (
            f"The mean {name} of each group of queries (columns) is predicted to change by so much, to first "
            "order, when all training examples of a group (rows) are removed. Harmful, in orange: the "
            "queries would fare better without it. Helpful, in blue: they would fare worse."
        )
    else:
        low, high = ("above", "below") if table.higher_is_better else ("below", "above")
        words = (
            "The scores of all training examples of a group (rows), summed and divided by n, for the mean "
            f"{name} of each group of queries (columns): an order of likeness, which predicts no change and "
            f"has no size. Harmful, in orange: {low} zero. Helpful, in blue: {high} zero."
        )
    if table.sized and count:
        words += (
            f" Grey: not resolved, so neither size nor sign is to be read ({count} of "
            f"{len(rows) * len(columns)} shown). Because {reasons}."
        )
    heads = [Column(_of(table).capitalize(), left=True), Column("examples")]
    for q in columns:
        note = f"{len(table.queries.members[q]):,} queries, {name} {number(float(table.measured[q]), 3)}"
        state = "" if bool(table.converged[q]) else ", not converged"
        heads.append(Column(table.queries.names[q], note=note + state))
    cells = [
        [
            Cell(table.train.names[t], "strong"),
            Cell(f"{len(table.train.members[t]):,}{_star(table, t)}", "muted"),
            *(_heat(table, shares, t, q, largest) for q in columns),
        ]
        for t in rows
    ]
    notes, more = [], (len(table.train) - len(rows), len(table.queries) - len(columns))
    hidden = [f"{count} more {kind} groups" for count, kind in zip(more, ("training", "query")) if count]
    if hidden:
        notes.append(
            f"Shown are the groups with the largest changes; {' and '.join(hidden)} are in slices.csv."
        )
    if any(_star(table, t) for t in rows):
        notes.append(
            "* More than a tenth of the training set: to first order, which this is, such a removal has a "
            "direction and no reliable size."
        )
    return [
        Words(words, heading="Groups: who carries whose error", where="page"),
        Table(heads, cells, note=" ".join(notes), where="page"),
    ]


def _heat(table: GroupInfluence, shares: Tensor, t: int, q: int, largest: float) -> Cell:
    change, resolution = float(table.change[t, q]), torch.finfo(table.scores.dtype).eps
    error = shown_error(float(table.error[t, q]), float(table.bound[t, q]), change, resolution)
    hint = (
        f"{error_beside(float(table.standard_error[t, q]))} by the sample of queries, "
        f"{error_beside(error)} by the {_by(table)}; "
        f"{number(float(table.per_example[t, q]), 3, sign=True)} per training example"
    )
    # A square root: changes span decades, and small ones should still be seen.
    shade = math.sqrt(min(abs(change) / largest, 1.0))
    hint += f"; {percent(float(shares[t, q]))} of the harm" if table.sized else ""
    return replace(_change(table, t, q), shade=shade, hint=hint)


def _carried(table: GroupInfluence, shares: Tensor, q: int, card: Callable[[int], Card], top: int) -> Shown:
    """What carries a query group's error: the training group whose harm exceeds its size by most, and the
    most harmful examples."""
    first = int((shares[:, q] - table.share_of_train).argmax())
    own, lift = float(table.share_of_train[first]), float(shares[first, q] / table.share_of_train[first])
    words = [] if bool(table.converged[q]) else ["NOT converged."]
    if table.sized and lift >= _CARRIES:
        words.append(
            f"Training examples of {table.train.names[first]} do {percent(float(shares[first, q]))} of the "
            f"harm and are {percent(own)} of the training set: {number(lift, 2)} times their share."
        )
    measured = f"{table.measurement} {number(float(table.measured[q]), 3)}"
    return Shown(
        Card(table.queries.names[q]),
        [(f"{len(table.queries.members[q]):,} queries, mean {measured}", "muted")],
        words=" ".join(words),
        blocks=[_training_groups(table, shares, q), _most_harmful(table, q, card, top)],
    )


def _training_groups(table: GroupInfluence, shares: Tensor, q: int) -> Table:
    """A column of the heat map for a terminal: by harm, those of largest change first."""
    change = table.change[:, q]
    largest = change.abs().argsort(descending=True, stable=True)
    first, rest = largest[:_TRAIN_GROUPS], largest[_TRAIN_GROUPS:]
    harm = change if table.higher_is_better else -change
    order = torch.cat([first[harm[first].argsort(descending=True, stable=True)], rest]).tolist()
    value = "change" if table.sized else "scores"
    columns = [
        Column(_of(table), left=True, width=22),
        *map(Column, ("examples", value, "± sample", f"± {_by(table)}")),
    ]
    columns += [Column("of harm")] if table.sized else []
    rows = []
    for t in order:
        share = float(shares[t, q])
        row: list[str | Cell] = [
            table.train.names[t],
            f"{len(table.train.members[t]):,}{_star(table, t) or ' '}",
            _change(table, t, q),
            _error(float(table.standard_error[t, q])),
            _error(float(table.error[t, q])),
        ]
        rows.append([*row, Cell(percent(share), bar=share)] if table.sized else row)
    count, reasons = unresolved(table.resolution(t, q) for t in order[:_TRAIN_GROUPS])
    note = f"?: not resolved, neither size nor sign is to be read. Because {reasons}"
    note = note if table.sized and count else ""
    return Table(columns, rows, note, _TRAIN_GROUPS, "slices.csv", where="terminal")


def _most_harmful(table: GroupInfluence, q: int, card: Callable[[int], Card], top: int) -> Cards:
    resolution, name = torch.finfo(table.scores.dtype).eps, table.queries.names[q]
    # One that helps is never called harmful.
    ranking = [r for r in table.harmful(name, top) if (r["score"] < 0) != table.higher_is_better]
    worst = max((abs(row["score"]) for row in ranking), default=1.0)
    entries = []
    for row in ranking:
        shown, group = card(row["train"]), row["train_group"]
        error = error_beside(max(row["error"], resolution * abs(row["score"])))
        entries.append(
            Shown(
                replace(shown, title=f"{shown.title}, {group}") if group else shown,
                [(number(row["score"], 3, sign=True), ""), (error, "muted")],
                share=abs(row["score"]) / worst,
                tone="harmful",
                words=f"removal: {number(row['change'], 3, sign=True)}" if table.sized else "",
            )
        )
    heading = f"Most harmful one by one, for the group's mean {table.measurement}"
    empty = "No training example harms this group."
    return Cards(entries, _EXAMPLES, empty, dense=True, heading=heading)


def _cluster(
    groups: HarmfulGroups,
    rank: int,
    card: Callable[[int], Card],
    class_names: Sequence[str] | None,
    top: int,
) -> Shown:
    cluster, largest = groups[rank], max(abs(one.change) for one in groups)
    labels, falls = _named(cluster.labels, class_names), _named(cluster.harm_by_label, class_names)
    lines = [
        ("Examples", f"{len(cluster):,} ({percent(len(cluster) / groups.n_train)})"),
        ("Of all harm", percent(cluster.share_of_harm)),
    ]
    lines += [("Labelled", label_words(labels))] if labels else []
    lines += [("Harm falls on", share_words(falls))] if falls else []
    words = (
        f"{error_beside(cluster.standard_error)} by the sample, {error_beside(cluster.error)} by the solver."
    )
    if len(cluster) > LARGE_SHARE * groups.n_train:
        words += f" More than {percent(LARGE_SHARE)} of the training set: a direction, no reliable size."
    members = [Shown(card(int(i)), [(number(float(groups.harm[i]), 3), "")]) for i in cluster.members[:top]]
    heading = "Its most harmful members, with the harm of each alone"
    return Shown(
        Card(f"Cluster {rank + 1} of {len(groups)}"),
        [(number(cluster.change, 3, sign=True), "harmful" if cluster.certain else "muted")],
        lines,
        share=abs(cluster.change) / largest if largest > 0 else 0.0,
        tone="harmful",
        words=words,
        doubt="" if cluster.certain else cluster.resolution.reason,
        blocks=[Cards(members, dense=True, heading=heading, where="page")],
    )


def _named(labels: dict[str, int] | dict[str, float] | None, class_names: Sequence[str] | None) -> dict:
    """The same numbers by the names of the classes, where they have any."""
    if class_names is None:
        return labels or {}
    return {
        label_text(torch.tensor([int(label)]), class_names) or label: n for label, n in (labels or {}).items()
    }


def _largest(size: Tensor, most: int) -> list[int]:
    return sorted(size.argsort(descending=True, stable=True)[:most].tolist())


def _change(table: GroupInfluence, t: int, q: int) -> Cell:
    change = float(table.change[t, q])
    tone: Tone = "harmful" if (change < 0) != table.higher_is_better else "helpful"
    # What has no size is doubted as a whole, in words, and not number by number.
    doubt = table.resolution(t, q).reason if table.sized else ""
    return Cell(number(change, 3, sign=True), tone if change else "", doubt=doubt)


def _of(table: GroupInfluence) -> str:
    return "removed from training" if table.sized else "training group"


def _star(table: GroupInfluence, t: int) -> str:
    """Marks a group too large for first order."""
    return "*" if table.sized and float(table.share_of_train[t]) > LARGE_SHARE else ""


def _by(table: GroupInfluence) -> str:
    return "solver" if table.solved else "method"


def _error(error: float) -> str:
    return number(error, 2) if math.isfinite(error) else "unknown"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _verb(count: int, verb: str) -> str:
    return f"{verb}s" if count == 1 else verb
