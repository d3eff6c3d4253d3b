"""Cards, pictures, numbers and charts."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from torch import nn

import wherefrom
from tests.report.report_results import verification
from wherefrom.errors import InputError
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, SmoothHinge, SquaredError
from wherefrom.report import Card, merge_card
from wherefrom.report.cards import guess_content, is_image
from wherefrom.report.charts import histogram, nice_ticks, scatter
from wherefrom.report.describe import label_text, prediction
from wherefrom.report.images import data_uri, to_rgb
from wherefrom.report.numbers import number, percent, shown_error
from wherefrom.task import Data


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 8), True),
        ((1, 28, 28), True),
        ((3, 32, 32), True),
        ((32, 32, 3), True),
        ((64,), False),
        ((2, 9), False),
    ],
)
def test_pictures_are_recognised_by_their_shape(shape, expected):
    assert is_image(np.zeros(shape)) is expected


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (3, 5, 6), (5, 6, 3), (5, 6, 1)])
def test_a_picture_survives_its_data_uri(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    raw = base64.b64decode(data_uri(image).removeprefix("data:image/png;base64,"))
    back = np.round(imread(io.BytesIO(raw))[:, :, :3] * 255).astype(np.uint8)
    assert np.array_equal(back, to_rgb(image))
    grey = image.reshape(5, 6) if image.size == 30 else None
    if grey is not None:
        assert np.array_equal(back[:, :, 0], grey)
    elif shape[0] == 3:
        assert np.array_equal(back, np.moveaxis(image, 0, 2))


def test_pictures_outside_the_unit_range_are_stretched_and_large_ones_averaged():
    assert to_rgb(np.array([[-2.0, 0.0], [1.0, 2.0]]))[:, :, 0].tolist() == [[0, 128], [191, 255]]
    assert to_rgb(np.full((2, 2), 7.0)).max() == 0
    halves = np.zeros((600, 600))
    halves[:, 300:] = 1.0
    small = to_rgb(halves)
    assert small.shape == (150, 150, 3) and small[0, 0, 0] == 0 and small[0, -1, 0] == 255


def test_a_picture_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"shape \(2, 5, 6, 7\)"):
        to_rgb(np.zeros((2, 5, 6, 7)))


def test_contents_are_guessed():
    assert guess_content("hello", "t", None).text == "hello"
    assert guess_content({"age": 3, "size": torch.tensor(1.5)}, "t", None).rows == [("age", 3), ("size", 1.5)]
    assert guess_content(torch.tensor([1.0, 2.0]), "t", "a").rows == [("x0", 1.0), ("x1", 2.0)]
    assert guess_content(torch.zeros(1, 8, 8), "t", None).image.shape == (1, 8, 8)
    assert guess_content(("a text", 7), "t", None).text == "a text"


def test_a_described_card_wins_field_by_field():
    default = Card("train 3", "1", "0", 0.75, image=np.zeros((8, 8)))
    named = merge_card(default, Card("Mr. Smith"))
    assert (named.title, named.label, named.probability) == ("Mr. Smith", "1", 0.75)
    assert named.image is not None
    told = merge_card(default, "a story")
    assert told.text == "a story" and told.image is None and told.title == "train 3"
    listed = merge_card(default, {"title": "x", "age": 3, "rows": {"size": 2}})
    assert listed.rows == [("size", 2), ("age", 3)] and listed.image is None
    assert merge_card(default, {"label": 5, "image": torch.ones(4, 4)}).label == "5"
    with pytest.raises(InputError, match="returned a int"):
        merge_card(default, 3)


def test_raw_inputs_leave_the_target_out():
    x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    assert Data((x, y)).inputs(1).tolist() == [2.0, 3.0]
    assert Data({"x": x, "label": y}).inputs(1)["x"].tolist() == [2.0, 3.0]
    assert Data([("a", 0), ("b", 1)]).inputs(1) == "b"
    assert Data([{"text": "a", "label": 0}]).inputs(0) == {"text": "a"}


def test_labels_and_predictions_by_loss():
    assert label_text(torch.tensor([2]), ["a", "b", "c"]) == "c"
    assert label_text(torch.tensor([0.25]), None) == "0.25"
    assert label_text(torch.zeros(1, 4), None) is None
    for label, name in ((-1.0, "no"), (1.0, "yes")):
        assert label_text(torch.tensor([label]), ["no", "yes"], Logistic()) == name
        assert prediction(SmoothHinge(0.1), torch.tensor([label]), ["no", "yes"])[0] == name
    assert label_text(torch.tensor([-1.0]), None, SmoothHinge(0.1)) == "-1"
    logits = torch.tensor([[0.0, np.log(3.0)]])
    assert prediction(CrossEntropy(), logits, ["no", "yes"]) == ("yes", pytest.approx(0.75))
    assert prediction(CrossEntropy(), torch.zeros(1, 3, 4), None) == (None, None)
    assert prediction(BinaryCrossEntropy(), torch.tensor([-np.log(4.0)]), None) == ("0", pytest.approx(0.8))
    assert prediction(Logistic(), torch.tensor([np.log(4.0)]), None) == ("1", pytest.approx(0.8))
    assert prediction(SmoothHinge(0.1), torch.tensor([-2.0]), None) == ("-1", None)
    assert prediction(SquaredError(), torch.tensor([1.5]), None) == ("1.5", None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (12.345678, "12.35"),
        (-0.5, "−0.5000"),
        (1234.5, "1,234"),
        (1.5e-7, "1.50e−7"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


@given(st.floats(1e-12, 1e12))
def test_a_number_reads_back_within_its_digits(value):
    text = number(value).replace(",", "").replace("−", "-")
    assert float(text) == pytest.approx(value, rel=6e-3)
    assert number(-value) == "−" + number(value)
    assert number(value, sign=True) == "+" + number(value)


def test_percentages_never_round_up_to_certainty():
    assert [percent(p) for p in (1.0, 0.9999, 0.71, 0.052)] == ["100 %", ">99.9 %", "71 %", "5.2 %"]


def test_the_error_shown_is_the_bound_where_that_is_negligible():
    assert shown_error(1e-20, 1e-9, 50.0, 1e-16) == 1e-9
    assert shown_error(0.5, 2.0, 50.0, 1e-16) == 0.5
    assert shown_error(1e-20, 2.0, 50.0, 1e-7) == pytest.approx(5e-6)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside_and_are_few(low, width):
    ticks = nice_ticks(low, low + width, 5)
    slack = 1e-9 * (abs(low) + width)
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)
    assert len(ticks) <= 7


def test_the_scatter_puts_equal_changes_on_the_diagonal():
    check = verification()
    plot = scatter(verification(actual=check.predicted), ["a", "b"])
    assert all(dot.x + dot.y == pytest.approx(plot.height) for dot in plot.dots)
    assert len(plot.dots) == 6 and plot.left_out == 0


def test_the_histogram_counts_every_score_once_and_splits_at_zero():
    values = np.random.default_rng(0).normal(size=(3, 200))
    plot = histogram(values, flip=False)
    counts = [int(bar.title.split()[0].replace(",", "")) for bar in plot.bars]
    assert sum(counts) == 600
    assert sum(c for c, bar in zip(counts, plot.bars) if bar.tone == "helpful") == (values > 0).sum()
    turned = histogram(values, flip=True)
    other = {"helpful": "harmful", "harmful": "helpful"}
    assert [bar.tone for bar in turned.bars] == [other[bar.tone] for bar in plot.bars]
    assert histogram(np.zeros((1, 4)), flip=False).bars


def test_influence_writes_its_own_page(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    model = wherefrom.FullBatch(nn.Linear(3, 2), loss="cross_entropy", weight_decay=0.1)((x, y), 0).eval()
    influence = wherefrom.Influence(model, (x, y), loss="cross_entropy", weight_decay=0.1).fit()
    queries = (x[:2], y[:2])
    scores = influence.scores(queries)
    path = influence.report(tmp_path / "page.html", queries, scores, class_names=["left", "right"])
    text = path.read_text(encoding="utf-8")
    assert number(float(scores.helpful(1, 0).score[0]), sign=True) in text
    assert "left" in text and "Linear" in text
    with pytest.raises(InputError, match="scores has 2 queries but 1 queries were given"):
        influence.report(tmp_path / "page.html", (x[:1], y[:1]), scores)
