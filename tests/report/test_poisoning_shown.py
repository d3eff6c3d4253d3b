"""Poisoning as people see it: shares, pictures with their differences, what is said when there are none."""

from __future__ import annotations

import re

import pytest
import torch

from tests.report.report_results import page_of, terminal_of
from wherefrom.report import Card
from wherefrom.studies.attack import AttackResult, Budget, Controls, EditSize, PoisonedQuery, PoisoningAudit
from wherefrom.studies.attack.shown import attack_blocks, flip_names, poisoning_blocks

SIZE = EditSize(0.002, 0.05, 0.5, True)


def entry(query: int, edits: int, flipped: bool, change: float = 0.002, shape=(3, 8, 8)) -> PoisonedQuery:
    original = torch.rand(edits, *shape, generator=torch.Generator().manual_seed(query)).clamp(0.1, 0.9)
    return PoisonedQuery(
        query,
        edits,
        flipped,
        True,
        0,
        int(flipped),
        list(range(edits)),
        0.01,
        SIZE,
        5,
        original,
        original + change,
    )


def audit(queries: list[PoisonedQuery], **options) -> PoisoningAudit:
    fields = {
        "edits": (1, 5),
        "attacked": [q.query for q in queries],
        "already_wrong": [9],
        "queries": queries,
        "not_converged": [],
        "budget": Budget.grey_levels(0.5),
        "measurement": "loss",
        "accuracy": 0.9,
        "n": 1800,
        **options,
    }
    return PoisoningAudit(**fields)


def train_card(i: int) -> Card:
    return Card(f"train {i}", label="<cat>")


def query_card(i: int) -> Card:
    return Card(f"test {i}", text="a & b")


def body(blocks) -> str:
    return page_of(*blocks)


def test_shares_and_pictures_are_shown():
    queries = [entry(0, 1, True), entry(1, 5, True, 0.05), entry(2, 5, False)]
    blocks = poisoning_blocks(audit(queries), train_card, query_card, class_names=["dog & co", "fish"])
    text = body(blocks)
    assert "33 %" in text and "1 of 3 flip" in text and "67 %" in text and "2 of 3 flip" in text
    assert "half" not in text and "0.5 grey levels" in text and "stays the same" in text
    assert "dog &amp; co" in text and "fish" in text and "&lt;cat&gt;" in text and "a &amp; b" in text
    # Half a grey level is too faint ten times over; larger edits are shown so.
    assert text.count("difference × 100") == 2 and text.count("difference × 10<") == 3
    assert text.count("data:image/png") == 3 + 9 and "and 2 more edited examples" in text
    assert "1 query was mispredicted before" in text
    said = terminal_of(*blocks)
    assert "1 of 3 flip" in said and "2 of 3 flip" in said and "0.5 grey levels" in said
    assert re.search(r"0  dog & co +fish +0 *\n +1  dog & co +fish +0, 1, 2, 3, 4 *\n", said)


def test_only_some_queries_are_shown():
    queries = [entry(q, 1, True) for q in range(9)]
    blocks = poisoning_blocks(audit(queries, edits=(1,)), train_card, query_card, top=2)
    assert body(blocks).count('<li class="case">') == 2


def test_nothing_flipped_and_nothing_converged_are_said():
    quiet = body(poisoning_blocks(audit([entry(0, 5, False)]), train_card, query_card))
    assert "No prediction flipped within this budget" in quiet and "0 of 1 flip" in quiet
    stuck = audit([entry(0, 5, False)], not_converged=[0])
    assert "1 retraining did not converge" in body(poisoning_blocks(stuck, train_card, query_card))
    assert "–" in body(poisoning_blocks(stuck, train_card, query_card))


def test_normalised_channels_and_flat_inputs_are_drawn():
    std = torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    normalised = Budget.grey_levels(0.5, low=-1 / std, high=1 / std)
    text = body(poisoning_blocks(audit([entry(0, 1, True)], budget=normalised), train_card, query_card))
    assert text.count("data:image/png") == 3
    flat = entry(0, 1, True, shape=(64,))
    picture = poisoning_blocks(
        audit([flat]), lambda i: Card(f"train {i}", image=flat.original[0].reshape(8, 8).numpy()), query_card
    )
    assert body(picture).count("data:image/png") == 3
    ranged = Budget(0.1, low=torch.zeros(64), high=torch.ones(64))
    picture = poisoning_blocks(
        audit([flat], budget=ranged),
        lambda i: Card(f"train {i}", image=flat.original[0].reshape(8, 8).numpy()),
        query_card,
    )
    assert body(picture).count("data:image/png") == 3
    table = body(poisoning_blocks(audit([flat], budget=Budget(0.1)), train_card, query_card))
    assert "largest changes" in table and "data:image" not in table and "0.1 units of the input" in table
    named = poisoning_blocks(
        audit([flat]), lambda i: Card(rows=[(f"feature {j}", 0.0) for j in range(64)]), query_card
    )
    assert "feature" in body(named)


@pytest.mark.parametrize("converged", [True, False])
def test_an_attack_on_many_at_once(converged):
    runs = 1 if converged else 0
    result = AttackResult(
        queries=torch.tensor([0, 2, 3]),
        already_wrong=[1],
        index=torch.tensor([7]),
        original=torch.rand(1, 8, 8),
        edited=torch.rand(1, 8, 8),
        train=None,
        seeds=(0,) * runs,
        before=torch.tensor([[0, 1, 1]])[:runs],
        after=torch.tensor([[1, 1, 0]])[:runs],
        failed={} if converged else {3: "ran out of iterations"},
        controls=Controls(50, 0.02, 0.9, 0.88) if converged else None,
        size=SIZE,
        history=[],
        budget=Budget(20, "l2", level=1 / 255),
        measurement="loss",
        retraining="by the recipe",
    )
    text = body(attack_blocks(result, train_card, query_card, class_names=["dog", "fish"]))
    assert "20 grey levels in l2 norm" in text and "1 query was mispredicted" in text
    if converged:
        assert "2 of 3 flip" in text and len(re.findall("dog → fish|fish → dog", text)) == 2
        assert "2.0 % of 50 control predictions change (accuracy 90.0 → 88.0 %)." in text
    else:
        assert "Retraining with seed 3 did not converge: ran out of iterations" in text


@pytest.mark.parametrize(
    ("before", "after", "names", "expected"),
    [
        (-1, 1, ["ham", "spam"], ("ham", "spam")),
        (1, -1, ["ham", "spam"], ("spam", "ham")),
        (0, 1, ["ham", "spam"], ("ham", "spam")),
        (1, 2, ["one", "two"], ("two", "2")),
        (-1, 1, None, ("-1", "1")),
    ],
)
def test_flips_are_named(before, after, names, expected):
    assert flip_names(before, after, names) == expected
