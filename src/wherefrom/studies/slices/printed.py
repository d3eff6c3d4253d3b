"""What `wherefrom slices` shows in a terminal: readable at 80 columns, with or without colour."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wherefrom.plain_text import one_line, short
from wherefrom.report.numbers import number, percent
from wherefrom.studies.slices import LARGE_SHARE, GroupInfluence, HarmfulGroups, label_words, share_words
from wherefrom.studies.slices.panel import named_labels

# Query groups, training groups of each, single examples of each, and clusters listed; the files have all.
_QUERY_GROUPS, _TRAIN_GROUPS, _EXAMPLES, _CLUSTERS = 4, 8, 3, 5
_BAR = 6
_WIDEST = 20


def printed(result: Any) -> RenderableType:
    """For each query group the training groups that do it most harm, and the most harmful clusters."""
    lines: list[RenderableType] = []
    if result.table is not None:
        table = result.table
        size = table.change.abs().max(0).values
        shown = sorted(size.argsort(descending=True, stable=True)[:_QUERY_GROUPS].tolist())
        for q in shown:
            lines.append(Text())
            lines.append(_query_group(table, q, min(_EXAMPLES, result.top)))
        hidden = len(table.queries) - len(shown)
        if hidden:
            groups = "group" if hidden == 1 else "groups"
            lines.append(Text(f"and {hidden} more query {groups}, in slices.csv", style="dim"))
        lines.append(Text())
        note = (
            "change: predicted when the whole group is removed from training, to first order\n"
            "± sample: standard error for other queries of the group's kind"
        )
        if bool((table.share_of_train > LARGE_SHARE).any()):
            note += (
                f"\n*: more than {percent(LARGE_SHARE)} of the training set: a direction, no reliable size"
            )
        lines.append(Text(note, style="dim"))
    if result.clusters is not None:
        lines.append(Text())
        lines.append(_clusters(result.clusters, result))
    return Group(*lines)


def _query_group(table: GroupInfluence, q: int, examples: int) -> RenderableType:
    name = table.queries.names[q]
    title = Text.assemble(
        (short(name, 40), "bold"),
        f": {len(table.queries.members[q]):,} queries, mean {table.measurement} "
        f"{number(float(table.measured[q]), 3)}",
    )
    if not bool(table.converged[q]):
        title.append("  NOT converged", style="bold red")
    shares = table.share_of_harm[:, q]
    grid = _grid("removed from training", "examples", "change", "± sample", "± solver", "of harm", "")
    order = _by_size(table, q)
    faint: Counter[str] = Counter()
    for t in order[:_TRAIN_GROUPS]:
        change = float(table.change[t, q])
        found = table.resolution(t, q)
        style = _style(table, change) if found.resolved else "dim"
        faint.update(() if found.resolved else (found.reason.partition(" (")[0],))
        mark = "*" if float(table.share_of_train[t]) > LARGE_SHARE else " "
        share = float(shares[t])
        grid.add_row(
            Text(short(table.train.names[t], _WIDEST)),
            Text(f"{len(table.train.members[t]):,}{mark}"),
            Text(number(change, 3, sign=True) + ("" if found.resolved else "?"), style=style),
            Text(_error(float(table.standard_error[t, q]))),
            Text(_error(float(table.error[t, q]))),
            Text(percent(share)),
            Text("█" * round(_BAR * share), style="yellow"),
        )
    lines: list[RenderableType] = [title, grid]
    if faint:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in faint.most_common())
        lines.append(
            Text(f"?: not resolved, neither size nor sign is to be read. Because {reasons}", style="dim")
        )
    if len(order) > _TRAIN_GROUPS:
        lines.append(Text(f"and {len(order) - _TRAIN_GROUPS} that change it less", style="dim"))
    worst = [row for row in table.harmful(name, examples) if (row["score"] < 0) != table.higher_is_better]
    if worst:
        alone = _grid("most harmful alone", "group", "change", left=("group",))
        for row in worst:
            shown = Text(number(row["change"], 2, sign=True), style="yellow")
            alone.add_row(Text(f"train {row['train']}"), Text(one_line(row["train_group"])), shown)
        lines.append(alone)
    return Group(*lines)


def _clusters(groups: HarmfulGroups, result: Any) -> RenderableType:
    names = result.class_names
    certain = len(groups.harmful)
    verb, clusters = "harms" if certain == 1 else "harm", "cluster" if len(groups) == 1 else "clusters"
    head = f": {certain} of {len(groups)} {clusters} {verb} the validation set"
    title = Text.assemble(("Clusters that hurt together", "bold"), head)
    if not groups.converged:
        title.append("  NOT converged", style="bold red")
    grid = _grid(
        "examples",
        "change",
        "± sample",
        "± solver",
        "of harm",
        "labelled",
        "harm falls on",
        left=("labelled",),
    )
    faint: Counter[str] = Counter()
    for cluster in groups.clusters[:_CLUSTERS]:
        known = cluster.resolution.resolved
        style = ("yellow" if cluster.harm > 0 else "cyan") if known else "dim"
        faint.update(() if known else (cluster.resolution.reason.partition(" (")[0],))
        labels = label_words(named_labels(cluster.labels or {}, names), 2)
        falls = share_words(named_labels(cluster.harm_by_label or {}, names), 1)
        grid.add_row(
            Text(f"{len(cluster):,}"),
            Text(number(cluster.change, 3, sign=True) + ("" if known else "?"), style=style),
            Text(_error(cluster.standard_error)),
            Text(_error(cluster.error)),
            Text(percent(cluster.share_of_harm)),
            Text(one_line(labels)),
            Text(one_line(falls) if cluster.harm > 0 else ""),
        )
    lines: list[RenderableType] = [title, grid]
    hidden = len(groups) - _CLUSTERS
    if hidden > 0:
        lines.append(Text(f"and {hidden} that harm less, or help", style="dim"))
    if faint:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in faint.most_common())
        lines.append(
            Text(f"?: not resolved, neither size nor sign is to be read. Because {reasons}", style="dim")
        )
    note = "± sample: standard error for another validation set of this size"
    lines.append(Text(note, style="dim"))
    return Group(*lines)


def _grid(first: str, *others: str, left: tuple[str, ...] = ()) -> Table:
    grid = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    number_first = first == "examples"
    grid.add_column(first, justify="right" if number_first else "left", no_wrap=True)
    for name in others:
        text = name in ("", *left) or name.startswith("harm falls")
        grid.add_column(
            name,
            justify="left" if text else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=18 if text else 12,
        )
    return grid


def _by_size(table: GroupInfluence, q: int) -> list[int]:
    """Training groups by harm, then those that help: the most shown are those of largest change."""
    change = table.change[:, q]
    largest = change.abs().argsort(descending=True, stable=True)
    harm = change if table.higher_is_better else -change
    first = largest[:_TRAIN_GROUPS]
    ordered = first[harm[first].argsort(descending=True, stable=True)]
    return torch.cat([ordered, largest[_TRAIN_GROUPS:]]).tolist()


def _style(table: GroupInfluence, change: float) -> str:
    if change == 0:
        return ""
    return "yellow" if (change < 0) != table.higher_is_better else "cyan"


def _error(error: float) -> str:
    return number(error, 2) if math.isfinite(error) else "unknown"
