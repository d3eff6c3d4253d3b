"""The blocks about groups say what the numbers say, for few groups and for many."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.report.report_results import page_of, terminal_of
from wherefrom.influence import resolve_change
from wherefrom.report import Card
from wherefrom.studies.slices import GroupInfluence, Groups, HarmfulCluster, HarmfulGroups
from wherefrom.studies.slices.shown import (
    MOST_COLUMNS,
    MOST_ROWS,
    cluster_blocks,
    group_blocks,
    shown_groups,
)


def card(index: int) -> Card:
    return Card(title=f"train {index}", label="7", text="<i>words</i>")


def table(t: int, q: int, n: int = 60, **options) -> GroupInfluence:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(n, q, generator=draw, dtype=torch.float64)
    parts = torch.arange(n).tensor_split(t)
    change = torch.stack([scores[part].sum(0) for part in parts]) / n
    train = Groups(tuple(f"site {i}" for i in range(t)), tuple(parts), n, "train_groups")
    queries = Groups(
        tuple(f"ward {i}" for i in range(q)), tuple(torch.tensor([i]) for i in range(q)), q, "query_groups"
    )
    values = {
        "measured": torch.arange(q, dtype=torch.float64),
        "error": torch.full((t, q), 1e-9, dtype=torch.float64),
        "standard_error": torch.zeros(t, q, dtype=torch.float64),
        "bound": torch.full((t, q), math.inf, dtype=torch.float64),
        "score_error": torch.full((n, q), 1e-9, dtype=torch.float64),
        "converged": torch.ones(q, dtype=torch.bool),
        "settings": {"dtype": "float64"},
        **options,
    }
    return GroupInfluence(
        train, queries, change=change, scores=scores, reason="", measurement="loss", **values
    )


def test_colours_follow_the_sign_and_large_groups_are_marked():
    made = table(3, 2)
    html = page_of(*group_blocks(made, card, top=2))
    assert html.count('class="n heat harmful"') == int((made.change < 0).sum())
    assert html.count('class="n heat helpful"') == int((made.change > 0).sum())
    assert html.count("20*") == 3 and "More than a tenth" in html
    assert "<i>words" not in html and "&lt;i&gt;words" in html
    assert "± 1.0e−9" in html and "ward 0" in html


def test_the_terminal_has_the_training_groups_of_the_worst_served_by_harm():
    made = table(3, 2)
    said = terminal_of(*group_blocks(made, card, top=2))
    assert said.index("ward 1: 1 queries, mean loss 1.00") < said.index("ward 0: 1 queries, mean loss 0")
    first = said[said.index("removed from training") : said.index("Most harmful one by one")]
    for name, found in zip(made.train.names, made.change[:, 1]):
        assert f"{float(found):+.3g}".replace("-", "−")[:5] in first and name in first
    order = sorted(range(3), key=lambda t: float(made.change[t, 1]))
    places = [first.index(made.train.names[t]) for t in order]
    assert places == sorted(places) and "± method" in first and said.count("removal:") == 4


def test_a_measurement_that_is_better_high_turns_the_colours():
    made = table(3, 2, higher_is_better=True)
    html = page_of(*group_blocks(made, card))
    assert html.count('class="n heat harmful"') == int((made.change > 0).sum())


def test_changes_that_may_be_chance_are_set_apart():
    made = table(3, 2)
    assert "unresolved" not in page_of(*group_blocks(made, card))
    unsure = torch.zeros(3, 2, dtype=torch.float64)
    unsure[1, 0] = float(made.change[1, 0].abs())
    html = page_of(*group_blocks(table(3, 2, standard_error=unsure), card))
    assert html.count("heat unresolved") == 1
    assert "not resolved, so neither size nor sign is to be read (1 of 6 shown)" in html
    assert "it is within the error of the sample of queries: 1" in html


def test_large_tables_show_the_largest_changes_and_say_so():
    made = table(30, 12)
    rows, columns = shown_groups(made)
    assert len(rows) == MOST_ROWS and len(columns) == MOST_COLUMNS and rows == sorted(rows)
    assert int(made.change.abs().max(0).values.argmax()) in columns
    html = page_of(*group_blocks(made, card))
    assert "6 more training groups and 4 more query groups are in slices.csv" in html
    # The worst served: the largest mean loss first.
    assert html.index("<h3>ward 11</h3>") < html.index("<h3>ward 8</h3>") and "<h3>ward 7</h3>" not in html


def test_a_group_that_nobody_harms_and_a_solver_that_did_not_converge():
    made = table(2, 1, converged=torch.zeros(1, dtype=torch.bool))
    good = GroupInfluence(**{**vars(made), "scores": made.scores.abs(), "change": made.change.abs()})
    html = page_of(*group_blocks(good, card))
    assert "No training example harms this group" in html and "not converged" in html


def clusters(*harms: float, error: float = 0.1) -> HarmfulGroups:
    made = [
        HarmfulCluster(np.array([i]), harm, -harm, math.inf, math.inf, error, 0.5, {"1": 1, "0": 2},
                       -harm * np.ones(4), {"0": 0.75},
                       resolve_change(-harm, {"the sample of validation examples": 2 * error}))
        for i, harm in enumerate(harms)
    ]  # fmt: skip
    return HarmfulGroups(tuple(made), np.array(harms), 0.3, True, "", "loss")


def test_clusters_that_harm_are_shown_with_what_is_known_of_them():
    html = page_of(*cluster_blocks(clusters(1.0, 0.15, -2.0), card, class_names=["no", "yes"]))
    assert "1 of 3 clusters of training examples harms the" in html and html.count('class="case"') == 2
    assert "yes: 1" in html and "no: 75 %" in html and "Not resolved: it is within the error" in html
    assert "± unknown by the solver" in html and "1 more cluster that harms less" in html


@pytest.mark.parametrize("harms", [(0.05, 0.01), (-1.0, -2.0)])
def test_no_cluster_that_surely_harms_is_said_plainly(harms):
    html = page_of(*cluster_blocks(clusters(*harms), card))
    assert "None of the 2 clusters" in html
    # A sentence about the list stands only above one.
    assert ("Each is listed" in html) == (html.count('class="case"') > 0)


@pytest.mark.parametrize("converged", [True, False])
def test_all_training_examples_are_no_cluster(converged):
    html = page_of(*cluster_blocks(replace(clusters(5.0), converged=converged), card))
    assert "form no clusters of different harm" in html and 'class="case"' not in html
    assert ("did NOT converge" in html) is not converged


def test_of_a_large_cluster_the_size_is_not_to_be_read():
    direction = "More than 10 % of the training set: a direction, no reliable size."
    assert page_of(*cluster_blocks(clusters(1.0, -2.0), card)).count(direction) == 1
    assert direction not in page_of(*cluster_blocks(clusters(1.0, *[-2.0] * 9), card))
