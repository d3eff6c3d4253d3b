"""What is shown of gradients, against the numbers it is made of, and networks without a bound."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from tests.report.report_results import page_of
from tests.support import digits
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.linalg import Estimate
from wherefrom.report import Card
from wherefrom.report.log_charts import log_scatter, log_ticks
from wherefrom.report.numbers import percent
from wherefrom.studies.geometry.layer_rows import layer_rows, quantiles, violations
from wherefrom.studies.geometry.shown import steepest_first
from wherefrom.studies.geometry.study import GeometryResult
from wherefrom.studies.geometry.verdicts import what_it_is

EXACT = Estimate(2.5, 0.0, 0)


def card(position: int) -> Card:
    return Card(f"train {position}", label="<3>", predicted="4", probability=0.5)


@pytest.fixture(scope="module")
def mlp():
    x, y = digits(24, classes=3, pool=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 5), nn.Tanh(), nn.Linear(5, 3)).to(x.dtype)
    made = Influence(model, (x, y), loss="cross_entropy", progress=False)
    return made.gradient_norms(), made.gradient_bounds()


def shown(norms, bounds, reason="", complexity=EXACT, numbers=range(24), top=8) -> str:
    result = GeometryResult("mlp", norms, bounds, reason, complexity, "margin", list(numbers), 24, card, top)
    return page_of(*result.section().blocks)


def dots(body: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r'<circle[^>]* cx="([-\d.]+)" cy="([-\d.]+)"', body)]


def test_every_dot_of_the_bound_is_below_the_diagonal(mlp):
    norms, bounds = mlp
    assert violations(bounds) == 0
    body = shown(norms, bounds, top=4)
    first = body.index("The bound, example by example")
    line = re.search(r'<line class="identity" ([^/]*)/>', body)
    assert line is not None
    x1, y1, x2, y2 = (float(end) for end in re.findall(r'"([^"]*)"', line.group(1)))
    drawn = dots(body[first : body.index("Input against parameters")])
    assert len(drawn) == 24
    for x, y in drawn:
        assert y > y1 + (x - x1) / (x2 - x1) * (y2 - y1)  # downwards is larger
        assert 0 <= x <= 420 and 0 <= y <= 340
    assert "Every dot lies below the line" in body


def test_cards_are_the_steepest_and_are_marked(mlp):
    norms, bounds = mlp
    body = shown(norms, bounds, top=3, numbers=range(100, 124))
    order = norms.inputs.argsort(descending=True).tolist()
    assert steepest_first(norms) == order
    assert re.findall(r"<span>train (\d+)</span>", body) == [str(k) for k in order[:3]]
    marked = re.findall(r'<circle class="marked"[^>]*><title>train (\d+):', body)
    assert sorted(marked) == sorted(str(100 + k) for k in order[:3])
    assert "&lt;3&gt;" in body and "<3>" not in body


def test_the_layers_of_the_table_make_up_the_bound(mlp):
    _, bounds = mlp
    rows = layer_rows(bounds)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    for row, layer in zip(rows, bounds.layers):
        assert row.name == layer.name and 0 < row.low <= row.tightness <= row.high <= 1 + 1e-9
        left = bounds.input_norm.square() * layer.term
        share = left / layer.gradient_norm.square()
        assert row.tightness == pytest.approx(float(share.quantile(0.5)))
        assert row.weight_norm == layer.weight_norm


def test_without_a_bound_the_reason_and_the_rest_are_shown(mlp):
    norms, _ = mlp
    body = shown(norms, None, "its weights are shared")
    assert "Not proved here" in body and "its weights are shared." in body
    assert "The bound, example by example" not in body and "Input against parameters" in body
    assert "Where the gradient in the parameters lies" in body
    for name in norms.layers:
        assert f"<code>{name}</code>" in body


def test_a_bound_by_some_layers_names_what_is_left_out(mlp):
    body = shown(*mlp, "layer 7 is shared.")
    assert "Yes, by some layers" in body and "Not every layer is covered.</b> layer 7 is shared." in body


def test_complexity_with_its_error(mlp):
    said = shown(*mlp, complexity=Estimate(2.5, 0.25, 9))
    assert "2.50" in said and "± 0.25" in said
    assert "computed exactly" in shown(*mlp)


def test_what_cannot_be_shown_is_refused(mlp):
    with pytest.raises(InputError, match="reason is empty"):
        shown(mlp[0], None)
    x, y = digits(5, classes=3, pool=2)
    model = nn.Sequential(nn.Linear(x.shape[1], 3)).to(x.dtype)
    other = Influence(model, (x, y), loss="cross_entropy", progress=False).gradient_bounds()
    with pytest.raises(InputError, match="of 5 examples and norms of 24"):
        shown(mlp[0], other)


def test_a_log_scatter_leaves_zeros_out_and_counts_them():
    x, y = torch.tensor([1.0, 10.0, 0.0]).double().numpy(), torch.tensor([1.0, 100.0, 5.0]).double().numpy()
    plot = log_scatter(x, y, ["a", "b", "c"], marked=[1], common=True)
    assert plot is not None and plot.left_out == 1
    assert [d.title for d in plot.dots] == ["a"] and [d.title for d in plot.marked] == ["b"]
    # With common axes, 100 is twice as far from 1 as 10 is.
    up = (plot.dots[0].y - plot.marked[0].y) / plot.height
    along = (plot.marked[0].x - plot.dots[0].x) / plot.width
    assert up == pytest.approx(2 * along)
    assert log_scatter(0 * x, y, ["a", "b", "c"]) is None


@pytest.mark.parametrize("low, high", [(-9.0, 5.0), (0.0, 1.0), (0.1, 0.4), (-1.5, 0.5)])
def test_ticks_of_a_log_axis(low, high):
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 7 and all(low - 1e-9 <= math.log10(t) <= high + 1e-9 for t in ticks)


def test_words():
    assert [percent(v) for v in (0.0, 1e-5, 0.0123, 0.5, 0.99999, 1.0, math.nan)] == [
        "0 %",
        "<0.1 %",
        "1.2 %",
        "50 %",
        ">99.9 %",
        "100 %",
        "–",
    ]
    assert what_it_is("3") == "output 3" and what_it_is("loss") == "the loss" and what_it_is("mine") == "mine"
    assert all(math.isnan(v) for v in quantiles(torch.full((3,), math.nan), 0.5, 1.0))
