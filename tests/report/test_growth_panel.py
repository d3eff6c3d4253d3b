"""The removal curve on the page: its numbers, its lines, and one size alone."""

from __future__ import annotations

import re

from tests.support import digits, softmax_regression
from wherefrom import FullBatch, Influence
from wherefrom.studies.change.growth_panel import growth_panel


def influence():
    plain = softmax_regression(60, classes=3, decay=0.05)
    made = Influence(plain.model, (plain.x, plain.y), loss="cross_entropy", weight_decay=0.05, progress=False)
    return made.fit(), FullBatch(plain.model, loss="cross_entropy", weight_decay=0.05)


def test_lines_and_rows_of_a_curve():
    made, recipe = influence()
    queries = digits(6, start=300, classes=3, pool=2)
    curve = made.removal_curve([4, 5, 6, 7], [1, 2, 4], queries, recipe, prediction="newton")
    body = str(growth_panel(curve).body)
    lines = re.findall(r'<polyline class="(\w+)" points="([^"]*)"', body)
    assert [kind for kind, _ in lines] == ["first_order", "predicted"]
    assert [len(points.split()) for _, points in lines] == [3, 3]
    assert body.count('<circle class="actual"') == 3 and "Retrained" in body
    # Zero is on the chart, and no point leaves it.
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', body):
        assert 0 <= float(x) <= 560 and 0 <= float(y) <= 260


def test_one_size_is_a_row_and_first_order_alone_is_not_drawn_twice():
    made, _ = influence()
    queries = digits(3, start=300, classes=3, pool=2)
    one = growth_panel(made.removal_curve([4], [1], queries))
    assert "<svg" not in str(one.body) and "Retrained" not in str(one.body)
    several = growth_panel(made.removal_curve([4, 5], [1, 2], queries, prediction="first"))
    assert str(several.body).count("<polyline") == 1 and "sum of single scores" not in str(several.body)
