"""Blocks on the page and in the terminal: what is the same in both, and what belongs to one of them."""

from __future__ import annotations

import re

import numpy as np

from tests.report.report_results import page_of, terminal_of
from wherefrom.influence import trust_without_fit
from wherefrom.report import (
    Beside,
    Card,
    Cards,
    Cell,
    Column,
    Facts,
    Section,
    Shown,
    Table,
    Verdict,
    Verdicts,
    Words,
    section_html,
)


def test_a_doubtful_number_is_grey_with_its_reason_on_the_page_and_has_a_mark_in_the_terminal():
    table = Table([Column("change"), Column("other")], [[Cell("+1.5", doubt="the noise <hides> it"), "+2.5"]])
    shown = page_of(table)
    assert 'class="n unresolved"' in shown and "not resolved: the noise &lt;hides&gt; it" in shown
    assert "+1.5?" in terminal_of(table) and "+2.5?" not in terminal_of(table)


def test_signed_bars_go_to_either_side_of_zero():
    table = Table([Column("", signed=True, tone="good")], [[Cell("−", bar=-0.5)], [Cell("+", bar=1.0)]])
    bars = re.findall(r'<span class="bar tone-good signed"><i style="([^"]*)"', page_of(table))
    assert bars == ["left:25.0%;width:25.0%", "left:50.0%;width:50.0%"]
    assert "█" not in terminal_of(table)


def test_a_cell_shows_an_example_and_a_note_on_the_page():
    row = [Cell("query 1", note="label <b>", card=Card("q", text="a <text>")), Cell("x", card=picture("p"))]
    shown = page_of(Table([Column("", left=True), Column("")], [row]))
    assert "label &lt;b&gt;" in shown and "a &lt;text&gt;" in shown and shown.count("<img") == 1
    assert "label" not in terminal_of(Table([Column("", left=True), Column("")], [row]))


def picture(title: str) -> Card:
    return Card(title, label="3", image=np.zeros((8, 8)))


def test_a_card_with_smaller_ones_says_them_all_in_both():
    smaller = [Shown(picture("train 4")), Shown(picture("train 9"))]
    own = [Cards(smaller, dense=True), Words("and 5 more")]
    entry = Shown(
        picture("query 1"), [("3", "strong")], [("margin", "0.2")], words="Rests on two.", blocks=own
    )
    cards = Cards([entry, Shown(picture("query 2"), words="Alone.")])
    shown, said = page_of(cards), terminal_of(cards)
    assert shown.count("<img") == 4 and shown.count('<ol class="dense">') == 1
    for words in ("query 1", "Rests on two.", "margin", "train 4", "train 9", "Alone.", "and 5 more"):
        assert words in shown and words in said


def test_blocks_beside_one_another_come_below_one_another_in_the_terminal():
    both = Beside([Words("left", heading="One"), Words("page alone", where="page"), Facts([("p", "7")])])
    shown, said = page_of(both), terminal_of(both)
    assert shown.count('<div class="beside">') == 1 and "<h3>One</h3>" in shown and "page alone" in shown
    assert said.index("One") < said.index("left") < said.index("p  7") and "page alone" not in said


def test_reasons_of_a_verdict_and_what_is_folded():
    verdict = Verdict("Why?", "poor", "No", "", reasons=[("good", "one"), ("poor", "two <2>")])
    shown = page_of(Verdicts([verdict]), Words("inside", folded="More"))
    assert '<li class="tone-good">one</li><li class="tone-poor">two &lt;2&gt;</li>' in shown
    assert shown.index("<summary>More</summary>") < shown.index("inside") < shown.index("</details>")
    assert "• one" in terminal_of(Verdicts([verdict])) and "• two <2>" in terminal_of(Verdicts([verdict]))


def test_a_shaded_cell_says_its_hint_and_its_doubt_when_one_points_at_it():
    cells = [Cell("+1.5", "harmful", shade=0.5, hint="of <b>"), Cell("−2", doubt="the sample", shade=0.0)]
    table = Table([Column("a", note="13 queries"), Column("b")], [cells])
    shown, said = page_of(table), terminal_of(table)
    assert '<td class="n heat harmful" style="--shade:35.0%" title="of &lt;b&gt;">+1.5</td>' in shown
    assert 'class="n heat unresolved"' in shown and 'title="not resolved: the sample. "' in shown
    assert '<span class="note">13 queries</span>' in shown and "13 queries" not in said and "−2?" in said


def test_blocks_that_belong_to_a_card_stand_beside_it_and_below_it_in_the_terminal():
    many = [Shown(picture(f"train {i}"), [("+7", "strong")], share=0.5, words="removal: +1", hint="<=2>")
            for i in range(3)]  # fmt: skip
    inside = Cards(many, heading="Most helpful", dense=True)
    asked = Cards([Shown(picture("query 1"), [("3", "good")], [("label", "4")], blocks=[inside])])
    shown, said = page_of(asked), terminal_of(asked)
    assert shown.count("<img") == 4 and shown.count('<ol class="dense">') == 1
    assert shown.count('title="&lt;=2&gt;"') == 3 and "<h3>Most helpful</h3>" in shown
    assert said.index("query 1: 3") < said.index("label 4") < said.index("Most helpful")
    assert said.index("Most helpful") < said.index("train 0: +7") < said.index("removal: +1")


def test_in_a_notebook_a_section_has_the_style_of_the_page_and_keeps_it_to_itself():
    shown = section_html(Section("model", trust_without_fit(), [Words("one", heading="Two")]))
    style = shown[shown.index("<style>") + 7 : shown.index("</style>")]
    assert style.startswith(".wherefrom {") and style.count("{") == style.count("}")
    assert "--helpful" in style and ":root" not in style and "body {" not in style
    assert '<h2 class="part">Two</h2>' in shown and "http" not in shown
