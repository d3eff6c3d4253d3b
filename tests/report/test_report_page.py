"""The page: complete in itself, well formed, escaped, and with the right numbers in it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.report.report_results import Page, minimum, scores, section, verification
from wherefrom.errors import InputError, StoreError
from wherefrom.influence import trust_without_fit
from wherefrom.report import Card, Section, View, Words, render_report, render_view, write_report


def test_the_page_loads_nothing():
    html = render_report([section(), section(name="Another")])
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed"), tag
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
    assert not re.search(r"url\(|@import|https?://", html)


def test_every_tag_is_closed_in_order():
    page = Page(render_report([section(), section(name="Another")]))
    assert page.faults == []
    assert page.open == []


def test_numbers_labels_and_pictures_are_there():
    page = Page(render_report([section()], title="Why a nine?"))
    for expected in (
        "Why a nine?",
        "A model",
        "94.5 %",
        "Predicted 9 with 81 %",
        "True label 4",
        "+12.50 ± 0.50",  # score and its estimate
        "removal: +3.12",  # 12.5 / 4
        "−7.750 ± 0.50",
        "Pearson 1.000",
        "Slope 1.10",
        "17.25",  # the largest self-influence
        "head.weight",
        "features.weight",
        "loss.label_smoothing 0.1250",
        "Gauss-Newton",
        "Conjugate gradients",
    ):
        assert expected in page.text, expected
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert pictures and all(source.startswith("data:image/png;base64,") for source in pictures)


def test_harmful_examples_are_never_called_helpful():
    page = Page(render_report([section()]))
    # The second query has only negative scores, the first one two positive ones; zero is neither.
    assert "None: no training example has such a score." in page.text
    assert page.text.count("Most helpful: removing one raises the loss") == 2
    assert page.text.count("removal: +") == 2


def test_where_higher_is_better_the_signs_of_help_turn():
    made = section(
        scores=scores([[12.5, -7.75, 0.0, 1.0]], measurement="margin", higher_is_better=True),
        verification=None,
    )
    text = Page(render_report([made])).text
    helpful, harmful = text.index("Most helpful"), text.index("Most harmful")
    assert helpful < text.index("−7.750") < harmful < text.index("+12.50")
    assert "A negative score is helpful" in text


def test_what_a_user_names_is_escaped():
    evil = '<script>alert("x")</script>'
    made = section(
        name=f"model {evil}",
        facts=[(evil, evil)],
        train_card=lambda i: Card(f"{evil}{i}", label=evil, text=evil, rows=[(evil, evil)]),
        query_card=lambda q: Card(f'"><img src=x onerror=1>{evil}', evil, evil, 0.5, text=evil),
        settings={"solver": evil, "parameters": [evil], "frozen": [], "unselected": []},
    )
    html = render_report([made], title=evil)
    page = Page(html)
    assert "<script" not in html
    assert page.count("script") == 0 and page.count("img") == 0
    assert page.faults == []
    assert evil in page.text


def test_a_dot_for_every_removal_and_query_with_its_words():
    html = render_report([section(verification=verification(noise=0.02))])
    page = Page(html)
    assert page.count("circle") == 6
    assert page.count("line", class_="noise") == 6
    assert page.count("line", class_="identity") == 1
    assert "without train 2, query 0: predicted +0.4000, actual +0.4400" in page.text
    assert "standard error over 2 seeds" in page.text


def test_without_retraining_the_page_says_so():
    page = Page(render_report([section(verification=None, self_scores=None)]))
    assert "Not checked" in page.text and "Predicted against actual" not in page.text
    assert "Examples to review" not in page.text
    assert page.count("circle") == 0


def test_retrainings_that_all_failed_leave_no_chart():
    empty = np.zeros((0, 2))
    check = verification(
        removed=np.zeros(0, dtype=np.int64),
        predicted=empty,
        actual=empty,
        failed={3: "did not converge"},
    )
    page = Page(render_report([section(verification=check)]))
    assert page.count("circle") == 0
    assert "Cannot tell" in page.text


@pytest.mark.parametrize(
    ("pearson_sign", "answer"), [(1.0, "Yes"), (-1.0, "No")], ids=["agreement", "disagreement"]
)
def test_the_verdict_of_retraining_reads_as_it_came_out(pearson_sign, answer):
    check = verification()
    check = verification(actual=pearson_sign * check.predicted)
    assert f"Does retraining agree? {answer}" in Page(render_report([section(verification=check)])).text


@pytest.mark.parametrize(
    ("verdict", "answer"), [("minimum", "Yes"), ("near", "Nearly"), ("not a minimum", "No")]
)
def test_the_verdict_on_the_minimum(verdict, answer):
    text = Page(render_report([section(minimum=minimum(verdict))])).text
    assert f"Is the model at a minimum? {answer} It is {verdict}." in text


def test_a_query_that_did_not_converge_is_marked():
    made = scores(
        [[12.5, -7.75, 0.0, 1.0], [-2.0, -4.0, -6.0, -8.0]],
        converged=torch.tensor([True, False]),
        reason="Stopped after 3 iterations.",
    )
    text = Page(render_report([section(scores=made)])).text
    assert "1 of 2 queries did not reach the tolerance" in text
    assert "Stopped after 3 iterations." in text
    assert text.count("The solver did not converge for this query.") == 1


def test_several_models_have_a_switch_and_one_has_none():
    assert Page(render_report([section(), section(name="Another")])).count("input", type="radio") == 2
    assert Page(render_report([section()])).count("nav") == 0


def test_text_and_feature_cards():
    rows = [(f"feature {j}", 1.5 * j) for j in range(11)]
    made = section(
        train_card=lambda i: Card(f"train {i}", rows=rows),
        query_card=lambda q: Card(f"query {q}", text="two\nlines"),
    )
    page = Page(render_report([made]))
    assert page.count("img") == 0
    assert "two lines" in page.text
    assert "feature 3 4.500" in page.text and "3 more features" in page.text


def test_sections_are_checked():
    with pytest.raises(InputError, match="sections is empty"):
        render_report([])
    with pytest.raises(InputError, match="different names"):
        render_report([section(), section()])
    with pytest.raises(InputError, match="top=0"):
        section(top=0)
    with pytest.raises(InputError, match="has 2 queries and the scores 1"):
        section(scores=scores([[1.0, 2.0, 3.0, 4.0]]))


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    assert write_report(path, [section()]) == path
    before = path.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(InputError):
        write_report(path, [])
    assert path.read_text(encoding="utf-8") == before
    with pytest.raises(StoreError, match="could not be written"):
        write_report(path / "inside.html", [section()])


def test_further_blocks_stand_before_how_to_read_it():
    page = Page(render_report([section(blocks=[Words("inside <b>", heading="Extra")])]))
    assert page.text.index("Extra") < page.text.index("inside <b>") < page.text.index("How to read this")


def test_title_and_lead_are_escaped():
    shown = Section("model", trust_without_fit(), [Words("one")])
    html = render_view(View("Which & why?", "A <lead>.", [shown]))
    assert "Which &amp; why?" in html and "A &lt;lead&gt;." in html
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html
