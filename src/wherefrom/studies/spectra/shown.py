"""What people see of the curvature: verdict, spectrum, leading directions, layers."""

from __future__ import annotations

from typing import Any

from wherefrom.linalg import Estimate
from wherefrom.report import Cell, Chart, Column, Facts, Table, Verdict, Verdicts, Words
from wherefrom.report.blocks import Tone
from wherefrom.report.numbers import number, percent
from wherefrom.studies.spectra.chart import spectrum_chart
from wherefrom.studies.spectra.class_means import ClassMeans
from wherefrom.studies.spectra.report import SpectrumReport

# What people read for the matrix that was looked at.
_MATRICES = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher information",
    "sampled_fisher": "sampled Fisher information",
    "empirical_fisher": "empirical Fisher matrix",
}
# Eigenvalues named among the facts.
_LARGEST = 5
_KEYS: tuple[tuple[str, Tone], ...] = (
    ("negative: the loss falls away", "harmful"),
    ("zero for all purposes", "muted"),
    ("positive", "helpful"),
)


_ALONE = " That is the shape alone: what retraining said of the scores stands at the head."


def spectrum_blocks(report: SpectrumReport, retraining: str | None = None) -> list[Any]:
    """The shape of the loss at the trained parameters, beside what retraining said of the scores there."""
    verdict = report.verdict
    asked = Verdict(
        "Does the shape of the loss speak for influence here?",
        verdict.level,
        verdict.answer,
        f"Damping that follows: {number(verdict.damping, 3)}, {verdict.damping_reason}."
        + (_ALONE if retraining is not None else ""),
        reasons=verdict.reasons,
    )
    return [
        Verdicts([asked], heading="The shape of the loss"),
        Facts(_facts(report)),
        *_density(report),
        *_directions(report),
        *_layers(report),
    ]


def _facts(report: SpectrumReport) -> list[tuple[str, str]]:
    facts = [
        ("Matrix", _matrix(report)),
        ("Parameters", f"{report.p:,}"),
        ("Training examples", f"{report.n:,}"),
        ("Largest eigenvalues", ", ".join(number(v, 3) for v in report.top.values.tolist()[:_LARGEST])),
        ("Trace", _estimate(report.trace)),
    ]
    if report.effective_dimension is not None:
        facts.append(("Effective dimension", _estimate(report.effective_dimension)))
    if report.log_determinant is not None:
        facts.append(("Log-determinant, damped", _estimate(report.log_determinant)))
    split = report.hessian
    if not isinstance(split, str):
        facts.append(("Sharpness: largest of the Hessian", number(split.largest, 4)))
        facts.append(("Smallest of the Hessian", number(split.smallest, 3)))
        facts.append(("Left out by Gauss-Newton", percent(split.rest_share)))
    return facts


def _density(report: SpectrumReport) -> list[Any]:
    chart = spectrum_chart(report.density, report.damping)
    words = (
        f"The {_matrix(report)} has one eigenvalue for each of {report.p:,} directions of the parameters: "
        "far to the right the few in which the loss rises steeply, near 0 the many in which it is flat."
    )
    if chart.damping is not None:
        words += " The line marks the damping: directions left of it hardly count in a score."
    drawn = Chart(
        "spectrum.html.j2",
        {"chart": chart, "used": number(report.damping, 3)},
        "Whiskers: one standard error of the estimate.",
        keys=[key for key in _KEYS if key[1] in ("helpful", *(bar.tone for bar in chart.bars))],
        where="page",
    )
    return [Words(words, heading="How curved, in how many directions", where="page"), drawn]


def _directions(report: SpectrumReport) -> list[Any]:
    values, residuals = report.top.values.tolist(), report.top.residuals.tolist()
    largest = max(max(values), 1e-300)
    classes = report.classes if isinstance(report.classes, ClassMeans) else None
    columns = [
        Column("rank"),
        Column("eigenvalue", tone="helpful"),
        Column("error", left=True),
        *([] if classes is None else [Column("explained by class means", tone="helpful")]),
    ]
    rows: list[list[str | Cell]] = []
    for j, value in enumerate(values):
        row: list[str | Cell] = [
            Cell(str(j + 1), "muted"),
            Cell(number(value, 4), bar=max(0.0, value / largest)),
            Cell(f"± {number(residuals[j], 1)}", "muted"),
        ]
        if classes is not None:
            share = float(classes.by_class[j])
            row.append(Cell(percent(share), bar=min(1.0, share)))
        rows.append(row)
    heading = "The steepest directions" + ("" if classes is None else ", and the classes in them")
    if classes is None:
        words = f"Class means are not shown: {report.classes}."
    else:
        words = (
            f"The means of the gradients of the {classes.classes} classes explain "
            f"{percent(classes.explained_by_class)} of the top {len(values)} directions together (a random "
            f"direction: {percent(classes.chance_class)}). With one mean for each pair of true and possible "
            f"class ({classes.dimension_pair} dimensions) it is {percent(classes.explained_by_pair)} "
            f"(random: {percent(classes.chance_pair)})."
        )
    if not report.top.converged:
        words += " Not all of these have converged: see their ±."
    return [Words(words, heading=heading), Table(columns, rows, where="page")]


def _layers(report: SpectrumReport) -> list[Any]:
    total = sum(max(layer.trace.value, 0.0) for layer in report.layers) or 1.0
    words = (
        "Each row is the block of the matrix that belongs to one layer. The bar is its share of the trace, "
        "the mean curvature over all its directions; effective dimension counts the directions that the data "
        "determine rather than weight decay and damping; the last column says in which layer the steepest "
        "directions of the whole network lie."
    )
    columns = [
        Column("layer", left=True, width=18, code=True),
        Column("parameters"),
        Column("trace"),
        Column("share of the trace", tone="helpful", where="page"),
        Column("largest"),
        Column("eff. dimension"),
        Column(f"of the top {len(report.top.values)}"),
    ]
    rows: list[list[str | Cell]] = []
    for layer in report.layers:
        share = max(layer.trace.value, 0.0) / total
        rows.append(
            [
                layer.name,
                f"{layer.size:,}",
                _estimate(layer.trace),
                Cell(percent(share), bar=share),
                number(layer.largest, 3),
                _estimate(layer.effective_dimension),
                percent(layer.top_share),
            ]
        )
    explained = Words(words, heading="Where the curvature lies", where="page")
    return [explained, Table(columns, rows, file="layers.csv")]


def _matrix(report: SpectrumReport) -> str:
    return _MATRICES.get(report.curvature, report.curvature)


def _estimate(estimate: Estimate | None) -> str:
    """`value ± standard error`, the error left out where it is zero."""
    if estimate is None:
        return "–"
    if estimate.standard_error == 0:
        return number(estimate.value, 4)
    return f"{number(estimate.value, 3)} ± {number(estimate.standard_error, 1)}"
