"""The blocks about labels: what it shows, and that what users name is data."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from wherefrom.errors import InputError
from wherefrom.influence import trust_without_fit
from wherefrom.report import Card, View, render_view
from wherefrom.studies.labels import LabelAudit
from wherefrom.studies.labels.study import Labels, LabelsResult


def audit(**changes) -> LabelAudit:
    signals = {
        "loss": torch.tensor([0.1, 3.0, 0.2]),
        "margin": torch.tensor([0.2, 0.9, 0.3]),
        "left_out_loss": torch.tensor([0.1, 4.0, 0.2]),
        "left_out_margin": torch.tensor([0.2, 0.95, 0.3]),
        "self_influence": torch.tensor([1.0, 90.0, 2.0]),
    }
    made = LabelAudit(
        index=torch.tensor([4, 7, 9]),
        given=torch.tensor([0, 0, 1]),
        predicted=torch.tensor([0, 1, 1]),
        signals={name: values.double() for name, values in signals.items()},
        errors={},
        confidence=torch.tensor([[0.9, 0.1], [0.05, 0.95], [0.2, 0.8]]),
        left_out_confidence=torch.tensor([[0.9, 0.1], [0.02, 0.98], [0.2, 0.8]]),
        relabel_change=None,
        class_names=("<b>cat</b>", "dog"),
        n=12,
        converged=True,
        settings={"validation": 0, "left_out_held": 0},
    )
    return dataclasses.replace(made, **changes)


def card(i: int) -> Card:
    return Card(f"train {i}", image=np.eye(8)) if i == 7 else Card(f"train {i}", text="<script>x</script>")


def page(found: LabelAudit, **options) -> str:
    result = LabelsResult("digits", found, card, Labels(**options), trust_without_fit())
    return render_view(View("Labels", "", [result.section()]))


def test_the_most_suspicious_come_first_with_their_proposals():
    html = page(audit())
    first, second = html.index("train 7"), html.index("train 9")
    assert first < second < html.index("train 4")
    perhaps = '<span class="muted">perhaps</span> <span class="">dog</span>'
    assert perhaps in " ".join(html[:second].split()) and html.count("may be right") == 2
    assert "→" not in html and "--good" not in html[html.index('class="shown"') :]
    assert "In benchmarks with labels that people or programs got wrong" in html
    assert "3 training examples looked at (of 12, those of largest loss)" in html
    assert "<b>No validation examples</b> were given" in html and "data:image/png" in html


def test_how_many_are_wrong_or_that_it_cannot_be_told():
    assert "cannot tell. Only 3 of 12 training examples were looked at" in page(audit())
    html = " ".join(page(audit(n=3)).split())
    # One of three labels differs from both models: the ends are nearly everything.
    assert "cannot tell. Anything from" in html and "The lower end" not in html
    certain = audit(n=3, given=torch.tensor([0, 1, 1]))
    many = {
        name: torch.cat([getattr(certain, name)] * 100)
        for name in ("given", "predicted", "confidence", "left_out_confidence")
    }
    signals = {name: torch.cat([values] * 100) for name, values in certain.signals.items()}
    right = dataclasses.replace(certain, index=torch.arange(300), n=300, signals=signals, **many)
    html = " ".join(page(right).split())
    # None of 300 differs: the upper end is the largest rate that leaves none with a chance of 2.5 %.
    most = math.ceil(300 * (1 - 0.025 ** (1 / 300)))
    assert f"Estimated number of wrong labels: 0 of 300 (0.0 %), between 0 and {most}." in html
    assert "The lower end" in html


def test_names_and_texts_are_escaped():
    html = page(audit())
    assert "<b>cat" not in html and "&lt;b&gt;cat" in html
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_what_limits_the_ranking_is_said():
    html = page(audit(converged=False, settings={"validation": 30, "left_out_held": 2}))
    assert "did NOT converge" in html and "30 validation examples" in html and "for 2 examples" in html


def test_a_signal_without_ranks_has_no_correlation():
    flat = {**audit().signals, "loss": torch.ones(3, dtype=torch.float64)}
    assert '<td class="n ">–</td>' in page(audit(signals=flat))


def test_ranked_by_another_sign():
    assert "Ranked by self-influence" in page(audit(), by="self_influence", top=1)
    with pytest.raises(InputError, match="hunch"):
        page(audit(), by="hunch")
    with pytest.raises(InputError, match="top=0"):
        page(audit(), top=0)
