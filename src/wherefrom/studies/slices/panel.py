"""Panels about groups: a heat map of training groups × query groups, and clusters that hurt together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from wherefrom.report.card_view import card_view
from wherefrom.report.cards import Card
from wherefrom.report.describe import label_text
from wherefrom.report.numbers import error_beside, number, percent, shown_error
from wherefrom.report.panels import Panel
from wherefrom.studies.slices import LARGE_SHARE, GroupInfluence, HarmfulCluster, HarmfulGroups

# Of larger tables the part with the largest changes is shown; the files hold all of it.
MOST_ROWS, MOST_COLUMNS = 24, 8
# Query groups shown with what carries their error: those served worst.
_MOST_CARRIED = 4
# A training group is said to carry an error when its share of the harm is so many times that of the examples.
_CARRIES = 1.2
# Clusters shown at the least, where so many harm, and at the most.
_LEAST_CLUSTERS, _MOST_CLUSTERS = 3, 8
_MOST_LABELS = 3


def shown_groups(table: GroupInfluence) -> tuple[list[int], list[int]]:
    """Which training groups and query groups are shown, in the table's order: those of largest change."""
    size = table.change.abs()
    columns = _largest(size.max(0).values, MOST_COLUMNS)
    return _largest(size[:, columns].max(1).values, MOST_ROWS), columns


def slices_panel(table: GroupInfluence, card: Callable[[int], Card], *, top: int = 5) -> Panel:
    """The heat map, and for each query group what carries its error.

    Args:
        table: of training groups × query groups.
        card: from a training index to what people see of it.
        top: most harmful training examples shown for each of the query groups that are served worst.
    """
    rows, columns = shown_groups(table)
    largest = max(float(table.change[rows][:, columns].abs().max()), 1e-300)
    shares, resolution = table.share_of_harm, torch.finfo(table.scores.dtype).eps
    cells = [[_cell(table, shares, t, q, largest, resolution) for q in columns] for t in rows]
    return Panel.from_template(
        "Groups: who carries whose error",
        "slices.html.j2",
        measurement=table.measurement,
        higher_is_better=table.higher_is_better,
        heads=[
            {
                "name": table.queries.names[q],
                "count": f"{len(table.queries.members[q]):,}",
                "measured": number(float(table.measured[q]), 3),
                "converged": bool(table.converged[q]),
            }
            for q in columns
        ],
        rows=[
            {
                "name": table.train.names[t],
                "count": f"{len(table.train.members[t]):,}",
                "large": float(table.share_of_train[t]) > LARGE_SHARE,
                "cells": line,
            }
            for t, line in zip(rows, cells)
        ],
        hidden_rows=len(table.train) - len(rows),
        hidden_columns=len(table.queries) - len(columns),
        any_large=any(float(table.share_of_train[t]) > LARGE_SHARE for t in rows),
        faint=sum(cell["faint"] for line in cells for cell in line),
        cells=sum(len(line) for line in cells),
        reasons=_reasons(table, rows, columns),
        groups=[_carried(table, shares, q, card, top, resolution) for q in _worst(table)],
        hidden_groups=len(table.queries) - min(len(table.queries), _MOST_CARRIED),
    )


def harmful_panel(
    groups: HarmfulGroups,
    card: Callable[[int], Card],
    *,
    class_names: Sequence[str] | None = None,
    top: int = 6,
) -> Panel:
    """The clusters that harm, the worst first.

    Args:
        groups: the clusters.
        card: from a training index to what people see of it.
        class_names: names of the classes.
        top: members shown of each cluster.
    """
    most = min(max(len(groups.harmful), _LEAST_CLUSTERS), _MOST_CLUSTERS)
    shown = [cluster for cluster in groups if cluster.harm > 0][:most]
    largest = max(abs(cluster.change) for cluster in groups)
    return Panel.from_template(
        "Clusters that hurt together",
        "harmful.html.j2",
        measurement=groups.measurement,
        measured=number(groups.measured, 3),
        validation=f"{len(groups[0].changes):,}",
        certain=len(groups.harmful),
        total=len(groups),
        converged=groups.converged,
        clusters=[_cluster(groups, cluster, card, class_names, top, largest) for cluster in shown],
        hidden=len(groups) - len(shown),
    )


def _reasons(table: GroupInfluence, rows: Sequence[int], columns: Sequence[int]) -> list[str]:
    """What the unresolved cells come from, the most frequent first; numbers in parentheses differ from one to
    the next."""
    found = [table.resolution(t, q) for t in rows for q in columns]
    counts = Counter(one.reason.partition(" (")[0] for one in found if not one.resolved)
    return [f"{reason}: {count}" for reason, count in counts.most_common()]


def named_labels(labels: dict[str, Any], class_names: Sequence[str] | None) -> dict[str, Any]:
    """The same numbers by the names of the classes, where they have any."""
    if class_names is None:
        return labels
    return {label_text(torch.tensor([int(label)]), class_names) or label: n for label, n in labels.items()}


def _largest(size: torch.Tensor, most: int) -> list[int]:
    return sorted(size.argsort(descending=True, stable=True)[:most].tolist())


def _worst(table: GroupInfluence) -> list[int]:
    """The query groups served worst, worst first."""
    order = table.measured.argsort(descending=not table.higher_is_better, stable=True)
    return order[:_MOST_CARRIED].tolist()


def _cell(
    table: GroupInfluence, shares: torch.Tensor, t: int, q: int, largest: float, resolution: float
) -> dict[str, Any]:
    change = float(table.change[t, q])
    error = shown_error(float(table.error[t, q]), float(table.bound[t, q]), change, resolution)
    found = table.resolution(t, q)
    harmful = (change < 0) != table.higher_is_better
    return {
        "change": number(change, 3, sign=True),
        "kind": "" if change == 0 else "harmful" if harmful else "helpful",
        # A square root: changes span decades, and small ones should still be seen.
        "shade": round(70 * math.sqrt(min(abs(change) / largest, 1.0))),
        "faint": not found.resolved,
        "hint": (f"Not resolved: {found.reason}. " if not found.resolved else "")
        + f"{error_beside(float(table.standard_error[t, q]))} by the sample of queries, "
        f"{error_beside(error)} by the solver; {number(float(table.per_example[t, q]), 3, sign=True)} per "
        f"training example; {percent(float(shares[t, q]))} of the harm",
    }


def _carried(
    table: GroupInfluence,
    shares: torch.Tensor,
    q: int,
    card: Callable[[int], Card],
    top: int,
    resolution: float,
) -> dict[str, Any]:
    """What carries a query group's error: the training group whose harm exceeds its size by most, and the
    most harmful examples."""
    name = table.queries.names[q]
    ranking = [row for row in table.harmful(name, top) if (row["score"] < 0) != table.higher_is_better]
    worst = max((abs(row["score"]) for row in ranking), default=1.0)
    first = int((shares[:, q] - table.share_of_train).argmax())
    lift = float(shares[first, q] / table.share_of_train[first])
    return {
        "name": name,
        "carrier": {
            "name": table.train.names[first],
            "harm": percent(float(shares[first, q])),
            "train": percent(float(table.share_of_train[first])),
            "lift": number(lift, 2),
        }
        if lift >= _CARRIES
        else None,
        "entries": [
            {
                "card": card_view(card(row["train"])),
                "group": row["train_group"],
                "score": number(row["score"], 3, sign=True),
                "error": error_beside(max(row["error"], resolution * abs(row["score"]))),
                "change": number(row["change"], 3, sign=True),
                "share": round(100 * abs(row["score"]) / worst, 1),
            }
            for row in ranking
        ],
    }


def _cluster(
    groups: HarmfulGroups,
    cluster: HarmfulCluster,
    card: Callable[[int], Card],
    class_names: Sequence[str] | None,
    top: int,
    largest: float,
) -> dict[str, Any]:
    counts = list(named_labels(cluster.labels or {}, class_names).items())
    falls = list(named_labels(cluster.harm_by_label or {}, class_names).items())
    return {
        "size": f"{len(cluster):,}",
        "share_of_train": percent(len(cluster) / groups.n_train),
        "certain": cluster.certain,
        "reason": cluster.resolution.reason,
        "change": number(cluster.change, 3, sign=True),
        "standard_error": error_beside(cluster.standard_error),
        "solver_error": error_beside(cluster.error),
        "width": round(100 * abs(cluster.change) / largest, 1) if largest > 0 else 0.0,
        "share_of_harm": percent(cluster.share_of_harm),
        "labels": [(name, f"{count:,}") for name, count in counts[:_MOST_LABELS]],
        "more_labels": len(counts) - _MOST_LABELS,
        "falls_on": [(name, percent(share)) for name, share in falls[:_MOST_LABELS]],
        "members": [
            {"card": card_view(card(int(i))), "harm": number(float(groups.harm[i]), 3)}
            for i in cluster.members[:top]
        ],
    }
