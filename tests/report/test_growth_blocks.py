"""The removal curve on the page: its numbers, its lines, and one size alone."""

from __future__ import annotations

import re

from tests.report.report_results import page_of
from tests.support import digits, softmax_regression
from wherefrom import FullBatch, Influence
from wherefrom.studies.change.shown import growth_blocks


def body(curve) -> str:
    return page_of(*growth_blocks(curve))


def influence():
    plain = softmax_regression(60, classes=3, decay=0.05)
    made = Influence(plain.model, (plain.x, plain.y), loss="cross_entropy", weight_decay=0.05, progress=False)
    return made.fit(), FullBatch(plain.model, loss="cross_entropy", weight_decay=0.05)


def test_lines_and_rows_of_a_curve():
    made, recipe = influence()
    queries = digits(6, start=300, classes=3, pool=2)
    curve = made.removal_curve([4, 5, 6, 7], [1, 2, 4], queries, recipe, prediction="newton")
    shown = body(curve)
    lines = re.findall(r'<polyline class="(\w+)" points="([^"]*)"', shown)
    assert [style for style, _ in lines] == ["dashed", "line"]
    assert [len(points.split()) for _, points in lines] == [3, 3]
    assert shown.count('<circle class="ring"') == 3 and "retrained" in shown
    # Zero is on the chart, and no point leaves it.
    points = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', shown)
    assert len(points) == 9
    for x, y in points:
        assert 0 <= float(x) <= 420 and 0 <= float(y) <= 230


def test_one_size_is_a_row_and_first_order_alone_is_not_drawn_twice():
    made, _ = influence()
    queries = digits(3, start=300, classes=3, pool=2)
    one = body(made.removal_curve([4], [1], queries))
    assert "<svg" not in one and "retrained" not in one
    several = body(made.removal_curve([4, 5], [1, 2], queries, prediction="first"))
    assert several.count("<polyline") == 1 and "sum of single scores" not in several
