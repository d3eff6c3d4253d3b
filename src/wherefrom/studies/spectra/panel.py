"""The panel about the curvature: verdict, spectrum, leading directions, layers."""

from __future__ import annotations

from typing import Any

from wherefrom.linalg import Estimate
from wherefrom.report.numbers import number, percent
from wherefrom.report.panels import Panel
from wherefrom.studies.spectra import ClassMeans, LayerCurvature, SpectrumReport
from wherefrom.studies.spectra.chart import spectrum_chart

# What people read for the matrix that was looked at.
MATRICES = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher information",
    "sampled_fisher": "sampled Fisher information",
    "empirical_fisher": "empirical Fisher matrix",
}


def estimate_text(estimate: Estimate | None) -> str:
    """`value ± standard error`, the error left out where it is zero."""
    if estimate is None:
        return "–"
    if estimate.standard_error == 0:
        return number(estimate.value, 4)
    return f"{number(estimate.value, 3)} ± {number(estimate.standard_error, 1)}"


def chance_text(share: float) -> str:
    """What a random direction would give, which is often next to nothing."""
    return percent(share) if share >= 1e-3 else "under 0.1 %"


def spectrum_panel(report: SpectrumReport) -> Panel:
    """The shape of the loss at the trained parameters."""
    verdict = report.verdict
    return Panel.from_template(
        "The shape of the loss",
        "spectrum.html.j2",
        matrix=MATRICES.get(report.curvature, report.curvature),
        verdict=verdict,
        damping=number(verdict.damping, 3),
        p=f"{report.p:,}",
        facts=_facts(report),
        chart=spectrum_chart(report.density, report.damping),
        top=_top(report),
        explained=_explained(report.classes),
        layers=_layers(report.layers),
        used=number(report.damping, 3),
        converged=report.top.converged,
    )


def _facts(report: SpectrumReport) -> list[tuple[str, str]]:
    facts = [
        ("Parameters", f"{report.p:,}"),
        ("Largest eigenvalue", number(float(report.top.values[0]), 4)),
        ("Trace", estimate_text(report.trace)),
    ]
    if report.effective_dimension is not None:
        facts.append(("Effective dimension", estimate_text(report.effective_dimension)))
    if report.log_determinant is not None:
        facts.append(("Log-determinant, damped", estimate_text(report.log_determinant)))
    split = report.hessian
    if not isinstance(split, str):
        facts.append(("Sharpness: largest of the Hessian", number(split.largest, 4)))
        facts.append(("Smallest of the Hessian", number(split.smallest, 3)))
        facts.append(("Left out by Gauss-Newton", percent(split.rest_share)))
    return facts


def _top(report: SpectrumReport) -> list[dict[str, Any]]:
    values, residuals = report.top.values.tolist(), report.top.residuals.tolist()
    largest = max(max(values), 1e-300)
    classes = report.classes if isinstance(report.classes, ClassMeans) else None
    return [
        {
            "rank": j + 1,
            "value": number(value, 4),
            "residual": number(residuals[j], 1),
            "length": round(max(0.0, 100 * value / largest), 2),
            "explained": None if classes is None else percent(float(classes.by_class[j])),
            "shade": 0 if classes is None else round(100 * float(classes.by_class[j]), 1),
        }
        for j, value in enumerate(values)
    ]


def _explained(classes: ClassMeans | str) -> dict[str, str] | str:
    if isinstance(classes, str):
        return classes
    return {
        "classes": str(classes.classes),
        "by_class": percent(classes.explained_by_class),
        "by_pair": percent(classes.explained_by_pair),
        "dimension": str(classes.dimension_class),
        "dimension_pair": str(classes.dimension_pair),
        "chance": chance_text(classes.chance_class),
        "chance_pair": chance_text(classes.chance_pair),
    }


def _layers(layers: list[LayerCurvature]) -> list[dict[str, Any]]:
    total = sum(max(layer.trace.value, 0.0) for layer in layers) or 1.0
    return [
        {
            "name": layer.name,
            "size": f"{layer.size:,}",
            "trace": estimate_text(layer.trace),
            "share": round(100 * max(layer.trace.value, 0.0) / total, 1),
            "share_text": percent(max(layer.trace.value, 0.0) / total),
            "largest": number(layer.largest, 3),
            "dimension": estimate_text(layer.effective_dimension),
            "top": percent(layer.top_share),
        }
        for layer in layers
    ]
