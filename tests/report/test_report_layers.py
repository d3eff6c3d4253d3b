"""The page of scores made layer by layer: the plan, coverage, damping, and how far they are from the full
curvature's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.report.report_results import Page, scores, section
from wherefrom.gradients import Coverage
from wherefrom.report import ReportSection, render_report, verdicts
from wherefrom.report.layers import layer_blocks

VALUES = [[12.5, -7.75, 0.0, 1.0], [-2.0, -4.0, -6.0, -8.0]]
COVERAGE = (
    Coverage("features.0", "convolution", ("features.0.weight", "features.0.bias"), 80, (1, 8, 10), ""),
    Coverage("gain", "dense", ("gain",), 10, (1, 10, 1), "Gain has no layer rule"),
    Coverage("head", "linear", ("head.weight",), 12_800, (2, 64, 100), "shared by 'head' and 'tail'"),
)


def block(name: str, shape: tuple[int, int, int], method: str, **changed: Any) -> dict[str, Any]:
    fields = {"block": name, "shape": list(shape), "positions": 1, "method": method, "operations": 2.5e9}
    return {
        **fields,
        "bytes": 1.25e6,
        "state_bytes": 64,
        "rotate_back": True,
        "rank": 0,
        "entries": 0,
        **changed,
    }


def plan(**changed: Any) -> dict[str, Any]:
    blocks = [
        block("features.0", (1, 8, 10), "explicit", positions=144),
        block("gain", (1, 10, 1), "gram", rank=1),
        block("head", (2, 64, 100), "low rank", rank=24, entries=1234),
    ]
    fields = {"queries": 2, "train": 4, "operations": 7.5e9, "bytes": 3.75e6, "rtol": 6e-4, "blocks": blocks}
    fields |= {"measured_error": 3e-4, "worst_error": 8e-4, "measured_on": [2, 4]}
    return {**fields, **changed}


def layered(
    distance: float | None = 0.25,
    *,
    estimate: float = 0.5,
    contraction: dict[str, Any] | None = None,
    **changed: Any,
) -> ReportSection:
    settings = {
        "solver": "ekfac",
        "curvature": "ggn",
        "p": 12_890,
        "damping": 0.04,
        "damping_reason": "0.1 times the mean eigenvalue of each layer (0.001 to 0.04)",
        "damping_per_block": {"features.0": 0.001, "gain": 0.002, "head": 0.04},
        "score_rtol": 1e-3,
        "probes": 4,
        "solver_notes": {"labels": "output curvature taken exactly, 9 gradients an example"},
        **changed.pop("settings", {}),
    }
    made = scores(
        VALUES,
        error=estimate,
        settings=settings,
        distance=distance,
        plan=contraction or plan(),
        bound=torch.full((len(VALUES), len(VALUES[0])), float("inf"), dtype=torch.float64),
        bound_proven=False,
        relative_residual=torch.full((2,), 22.0, dtype=torch.float64),
    )
    return section(scores=made, coverage=COVERAGE, **changed)


def test_the_page_shows_plan_coverage_damping_and_distance():
    page = Page(render_report([layered()]))
    assert page.faults == [] and page.open == []
    for expected in (
        "Layer by layer",
        "what couples one layer with another is left out",
        "Probed on 2 of the queries: with the full curvature and the same damping the scores would differ by "
        "about 25 % of their",
        "0.1 times the mean eigenvalue of each layer",
        "output curvature taken exactly, 9 gradients an example",
        "2 queries × 4 training examples: predicted 7.5 Gflop, 3.75 MB moved",
        "by 3.0e−4 of their size, 8.0e−4 at worst (measured on 2 queries × 4 training examples; "
        "allowed: 0.001)",
        "features.0 convolution 80 8 × 10 0.0010 144 explicit 2.5 G 1.25 M",
        "gain dense 10 10 × 1 0.0020 1 Gram products 2.5 G 1.25 M",
        "head linear 12,800 2 × 64 × 100 0.040 1 low rank 24+1234 2.5 G 1.25 M",
        "gain explicit gradients of gain: Gain has no layer rule",
        "head shared by 'head' and 'tail'",
        "Damping 0.0010 to 0.040, by layer",
        "Solver EK-FAC",
        "no bound on it is known",
    ):
        assert expected in page.text, expected
    assert page.count("details") == 1  # the settings alone: few layers are not folded
    # The plan is shown as a table, not as text among the settings.
    assert "{'block'" not in page.text and "∞" not in page.text


def test_bounds_that_are_not_known_are_no_infinities_in_the_page():
    html = render_report([layered()])
    assert "No bound on the solver&#39;s error is known" in html
    assert "not expected to exceed" not in html
    unmeasured = render_report([layered(None, estimate=float("inf"))])
    page = Page(unmeasured)
    assert "± unknown" in page.text and "was not measured (probes=0)" in page.text
    for text in (html, unmeasured):
        assert "∞" not in text and "inf<" not in text and "nan" not in text


@pytest.mark.parametrize(
    ("distance", "level", "answer", "shown"),
    [
        (0.002, "good", "Yes", "0.20 %"),
        (0.25, "fair", "Roughly", "25 %"),
        (0.99, "poor", "No", "99 %"),
        (12.0, "poor", "No", "12 times"),
        (None, "none", "Not measured", "not measured"),
        (float("nan"), "none", "Not measured", "not measured"),
        (float("inf"), "none", "Not measured", "not measured"),
    ],
)
def test_the_verdict_speaks_of_the_approximation_and_not_of_residuals(distance, level, answer, shown):
    verdict = verdicts(layered(distance))[1]
    assert (verdict.level, verdict.answer) == (level, answer)
    assert (
        dict(verdict.numbers)["Distance to the full curvature, same damping"].replace(
            "\N{NO-BREAK SPACE}", " "
        )
        == shown
    )
    assert "residual" not in verdict.words and "converge" not in verdict.words


@pytest.mark.parametrize(
    ("error", "level", "answer"), [(1e-3, "good", "Yes"), (1.0, "fair", "Roughly"), (7.0, "poor", "No")]
)
def test_the_verdict_on_other_solvers_goes_by_the_expected_error(error, level, answer):
    verdict = verdicts(section(scores=scores(VALUES, error=error)))[1]
    assert (verdict.level, verdict.answer) == (level, answer)


def test_an_error_that_was_not_measured_is_no_verdict_for_other_solvers_either():
    unknown = scores(VALUES, error=float("inf"))
    verdict = verdicts(section(scores=unknown))[1]
    assert (verdict.level, verdict.answer) == ("none", "Not measured")
    assert dict(verdict.numbers)["Largest error shown"] == "not measured"


def notes_and_damping(made: ReportSection) -> tuple[dict[str, str], set[str]]:
    """What is said of the layers, and the damping of all rows on the page."""
    notes, table, *_ = layer_blocks(made)
    at = [column.name for column in table.columns].index("λ")
    assert len(table.rows) == len(made.scores.plan["blocks"])
    return dict(notes.notes), {row[at] for row in table.rows}


@pytest.mark.parametrize(
    ("solver", "words"),
    [("kfac", "takes inputs and output gradients to be independent"), ("diagonal", "Only the diagonal")],
)
def test_each_solver_says_what_it_leaves_out(solver, words):
    notes, _ = notes_and_damping(layered(settings={"solver": solver}))
    assert words in notes["What is left out."]


def test_the_identity_has_no_damping_and_no_distance():
    made = layered(None, settings={"solver": "identity", "damping_per_block": None})
    notes, damping = notes_and_damping(made)
    left_out = notes["What is left out."]
    assert "inner product of two gradients" in left_out and "is not measured" in left_out
    assert damping == {"–"} and "Curvature." not in notes


def test_one_damping_for_all_layers_stands_in_every_row():
    made = layered(settings={"damping_per_block": None, "damping": 0.5})
    assert notes_and_damping(made)[1] == {"0.50"}


def test_an_exact_plan_says_so_and_many_layers_are_folded():
    many = [block(f"layers.{k}", (1, 8, 10), "explicit") for k in range(30)]
    exact = layered(contraction=plan(blocks=many, measured_error=0.0), verification=None)
    page = Page(render_report([exact]))
    assert "Every block is contracted exactly, up to rounding." in page.text
    assert "30 blocks of parameters" in page.text and "layers.29" in page.text
    assert page.count("details") == 2
    assert all("open" not in attributes for tag, attributes in page.elements if tag == "details")


def test_other_solvers_have_no_such_part():
    assert layer_blocks(section()) == []
    assert "Layer by layer" not in Page(render_report([section()])).text
